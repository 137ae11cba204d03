"""Scores as tables: by row, the worst first; by label; by the values of a column; and what they depend on.

>>> condition_rows({"loss_on": "all", "stop_ids": [0, 2], "dtype": "", "metrics": {"words": "2"}, "tokenizer": "ab" * 32})
[['loss_on', 'all'], ['stop_ids', '0, 2'], ['metrics.words', '2'], ['tokenizer', 'abababababab']]
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sdk.cli.support.output import WIDTH, one_line, plain, render
from sdk.examining.label_counts import LabelCounts
from sdk.schemas.scores import SlicedScores
from sdk.statistics.calibration import BINS

if TYPE_CHECKING:
    from sdk.schemas.evaluation import RowScore


#: How many scores fit into a line of 80 columns, besides row, loss and prediction.
_SCORES = 2


def worst_first(rows: Sequence[RowScore], metric: str | None) -> list[RowScore]:
    """Return rows sorted by their loss per token, rows without one first, then the highest; by `metric`, the lowest first.

    Rows without a score of the metric are left out.
    """
    if metric in (None, "loss"):
        failed = [row for row in rows if row.loss_sum is None]
        return failed + sorted(
            (row for row in rows if row.loss_sum is not None), key=lambda row: (-_loss(row), row.row)
        )
    scored = [row for row in rows if metric in row.scores]
    return sorted(scored, key=lambda row: (row.scores[metric], row.row))


def metrics_of(rows: Sequence[RowScore]) -> list[str]:
    """Return the names of all scores that any row has."""
    return sorted({name for row in rows for name in row.scores})


def row_document(row: RowScore) -> dict[str, Any]:
    """A row for JSON, with its loss in nats per token."""
    loss = None if row.loss_sum is None or not row.tokens else row.loss_sum / row.tokens
    return {**row.model_dump(mode="json"), "loss": loss}


def row_table(rows: Sequence[RowScore], metric: str | None) -> str:
    """Lay out rows as they come."""
    names = metrics_of(rows)
    if metric in names:
        names = [metric, *(name for name in names if name != metric)]
    names = names[:_SCORES]
    labelled = any(row.expected is not None for row in rows)
    left_out = any(row.unscored is not None for row in rows)
    lines = [
        [
            row.row,
            _loss(row),
            row.tokens,
            *(row.scores.get(name) for name in names),
            *([row.unscored and row.unscored.replace("_", " ")] if left_out else []),
            *([row.expected and one_line(row.expected)] if labelled else []),
            row.scored_text and one_line(row.scored_text),
        ]
        for row in rows
    ]
    why = ["not scored"] if left_out else []
    headers = ["row", "loss", "tokens", *names, *why, *(["expected"] if labelled else []), "prediction"]
    if all(row.prediction is None for row in rows):
        lines, headers = [line[:-1] for line in lines], headers[:-1]
        return render(headers, lines)
    return render(headers, lines, cut=len(headers) - 1)


def _loss(row: RowScore) -> float:
    """Nats per token; NaN if that was not a number."""
    return math.nan if row.loss_sum is None else row.loss_sum / max(row.tokens, 1)


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
    names = [one_line(label, _LABEL) for label in found.labels]
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


#: How many scores fit into a line of 80 columns, besides value, rows and loss.
_SLICE_SCORES = 3


def slice_table(found: SlicedScores) -> tuple[str, str | None]:
    """Lay slices out in the given order; also return a remark to print with the table, if there is one."""
    names = sorted({name for one in found.slices for name in one.metrics} - {"loss"})
    shown = names[:_SLICE_SCORES]
    lines = [
        [
            plain(" ".join(one.value.split())),
            one.rows + one.failed_rows,
            one.metrics.get("loss"),
            *(one.metrics.get(name) for name in shown),
        ]
        for one in found.slices
    ]
    said = []
    if failed := sum(one.failed_rows for one in found.slices):
        said.append(f"{failed} rows have no loss")
    if unscored := sum(one.unscored_rows for one in found.slices):
        said.append(f"{unscored} more {'has' if unscored == 1 else 'have'} no score at all")
    if any(one.scored.get(name) not in (None, one.rows) for one in found.slices for name in shown):
        said.append("some scores are of fewer rows, which --format json counts")
    if len(shown) < len(names):
        said.append(f"--format json also has {', '.join(names[_SLICE_SCORES:])}")
    return render([plain(found.by), "rows", "loss", *shown], lines), "; ".join(said) or None


_DIGEST = re.compile(r"[0-9a-f]{64}")
#: Characters of a digest that are shown, as refs take them.
_DIGITS = 12


def condition_rows(conditions: Mapping[str, Any]) -> list[list[str]]:
    """Return name and value of each condition that isn't empty; one with parts becomes a row for each part."""
    rows = []
    for name, value in conditions.items():
        if isinstance(value, dict):
            rows += condition_rows({f"{name}.{part}": inner for part, inner in value.items()})
        elif value is True or value is False:
            rows.append([name, "yes" if value else "no"])
        elif value not in (None, "", [], 0):
            rows.append([name, ", ".join(map(_brief, value)) if isinstance(value, list) else _brief(value)])
    return rows


def _brief(value: object) -> str:
    text = str(value)
    return text[:_DIGITS] if _DIGEST.fullmatch(text) else text
