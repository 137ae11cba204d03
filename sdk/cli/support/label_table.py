"""Which labels were predicted for which, as a table of at most 80 columns."""

from __future__ import annotations

from sdk.cli.support.output import WIDTH, plain, render
from sdk.examining.label_counts import LabelCounts
from sdk.statistics.calibration import BINS

#: The width of a label at the beginning of a line.
_LABEL = 24
#: How many pairs of labels are listed if a table of all would be too wide.
_PAIRS = 20


def label_lines(found: LabelCounts) -> list[str]:
    """Lay out counts and calibration."""
    lines = [] if found.note is None else [found.note, ""]
    if found.labels:
        lines += [*_counts(found), ""]
    if found.calibration_error is not None:
        bins = [
            [f"{one.above:.1f} to {one.above + 1 / BINS:.1f}", one.rows, one.confidence, one.accuracy]
            for one in found.calibration
        ]
        lines += [render(["probability", "rows", "mean", "accuracy"], bins)]
        lines += ["", f"expected calibration error {found.calibration_error:.4g}", ""]
    return lines


def _counts(found: LabelCounts) -> list[str]:
    """All pairs as a square if it fits, else the most frequent mistakes."""
    numbers = [str(number) for number in range(1, len(found.labels) + 1)]
    names = [_label(label) for label in found.labels]
    square = [[f"{number} {name}", *row] for number, name, row in zip(numbers, names, found.counts, strict=True)]
    widths = [max(len(str(value)) for value in column) for column in zip(numbers, *found.counts, strict=True)]
    if _LABEL + len(numbers[-1]) + 1 + sum(width + 2 for width in widths) <= WIDTH:
        return [render(["expected, and found as", *numbers], square)]
    pairs = [
        (names[own], names[other], count)
        for own, row in enumerate(found.counts)
        for other, count in enumerate(row)
        if own != other and count
    ]
    pairs.sort(key=lambda pair: -pair[2])
    table = render(["expected", "found as", "rows"], pairs[:_PAIRS])
    rest = len(pairs) - _PAIRS
    return [table, *([f"and {rest} more pairs of labels; --format json has all"] if rest > 0 else [])]


def _label(label: str) -> str:
    text = plain(" ".join(label.split()))
    return text if len(text) <= _LABEL else text[: _LABEL - 1] + "…"
