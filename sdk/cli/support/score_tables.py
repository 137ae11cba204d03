"""Scores as tables: by row, the worst first; by label; by the values of a column; and what they depend on.

>>> condition_rows({"loss_on": "all", "stop_ids": [0, 2], "dtype": "", "metrics": {"words": "2"}, "tokenizer": "ab" * 32})
[['loss_on', 'all'], ['stop_ids', '0, 2'], ['metrics.words', '2'], ['tokenizer', 'abababababab']]
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sdk.cli.support.columns import CellForm, ListColumn, measured
from sdk.cli.support.listings import Listing
from sdk.cli.support.output import one_line, render, screen_width
from sdk.cli.support.records import print_remark, print_table
from sdk.examining.label_counts import LabelCounts
from sdk.schemas.scores import Slice, SlicedScores
from sdk.statistics.calibration import BINS

if TYPE_CHECKING:
    from sdk.schemas.evaluation import RowScore


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


def row_listing(rows: Sequence[RowScore], metric: str | None) -> Listing:
    """The columns of rows: loss, the asked score, and what was expected and found."""
    names = sorted(metrics_of(rows), key=lambda name: name != metric)
    return Listing(
        ListColumn("row"),
        ListColumn("loss", _loss, 8),
        ListColumn("tokens", importance=3),
        *(measured(name, _score(name), max(1, 7 - at)) for at, name in enumerate(names)),
        ListColumn("not scored", lambda row: row.unscored and row.unscored.replace("_", " "), 8),
        ListColumn("expected", lambda row: row.expected, 5),
        ListColumn("prediction", lambda row: row.scored_text, 6),
        key="row",
    )


def _score(name: str) -> Callable[[RowScore], float | None]:
    return lambda row: row.scores.get(name)


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


def print_label_counts(found: LabelCounts) -> None:
    """Print counts and calibration for a program: every pair that occurs, and every bin."""
    if found.note is not None:
        print_remark(found.note)
    pairs = [
        (own, other, found.counts[at][of])
        for at, own in enumerate(found.labels)
        for of, other in enumerate(found.labels)
        if found.counts[at][of]
    ]
    print_table("confusion", ["expected", "predicted", "rows"], pairs)
    bins = [(one.above, one.above + 1 / BINS, one.rows, one.confidence, one.accuracy) for one in found.calibration]
    print_table("calibration", ["from", "to", "rows", "mean", "accuracy"], bins)


def _counts(found: LabelCounts) -> list[str]:
    """All pairs as a square if it fits, else the most frequent mistakes."""
    numbers = [str(number) for number in range(1, len(found.labels) + 1)]
    names = [one_line(label, _LABEL) for label in found.labels]
    square = [[f"{number} {name}", *row] for number, name, row in zip(numbers, names, found.counts, strict=True)]
    widths = [max(len(str(value)) for value in column) for column in zip(numbers, *found.counts, strict=True)]
    if _LABEL + len(numbers[-1]) + 1 + sum(width + 2 for width in widths) <= screen_width():
        return [render(["true \\ predicted", *numbers], square)]
    pairs = [
        (names[own], names[other], count)
        for own, row in enumerate(found.counts)
        for other, count in enumerate(row)
        if own != other and count
    ]
    pairs.sort(key=lambda pair: -pair[2])
    table = render(["true", "predicted", "rows"], pairs[:_PAIRS])
    rest = len(pairs) - _PAIRS
    return [table, *([f"and {rest} more pairs of labels; --format json has all"] if rest > 0 else [])]


def slice_listing(found: SlicedScores) -> tuple[Listing, str | None]:
    """The columns of slices; also a remark to print with them, if there is one."""
    names = sorted({name for one in found.slices for name in one.metrics} - {"loss"})
    listing = Listing(
        ListColumn(found.by, lambda one: one.value, form=CellForm.PROSE),
        ListColumn("rows", lambda one: one.rows + one.failed_rows, 8),
        measured("loss", lambda one: one.metrics.get("loss"), 8),
        *(measured(name, _mean(name), max(1, 7 - at)) for at, name in enumerate(names)),
        key="value",
    )
    said = []
    if failed := sum(one.failed_rows for one in found.slices):
        said.append(f"{failed} rows have no loss")
    if unscored := sum(one.unscored_rows for one in found.slices):
        said.append(f"{unscored} more {'has' if unscored == 1 else 'have'} no score at all")
    if any(one.scored.get(name) not in (None, one.rows) for one in found.slices for name in names):
        said.append("some scores are of fewer rows, which --format json counts")
    return listing, "; ".join(said) or None


def _mean(name: str) -> Callable[[Slice], float | None]:
    return lambda one: one.metrics.get(name)


_DIGEST = re.compile(r"[0-9a-f]{64}")
#: Characters of a digest that are shown, as refs take them.
_DIGITS = 12


def condition_rows(conditions: Mapping[str, Any], *, whole: bool = False) -> list[list[str]]:
    """Return name and value of each condition that isn't empty; one with parts becomes a row for each part. Digests are cut to
    the digits that refs take, unless they are to be `whole`.
    """
    text_of = str if whole else _brief
    rows = []
    for name, value in conditions.items():
        if isinstance(value, dict):
            rows += condition_rows({f"{name}.{part}": inner for part, inner in value.items()}, whole=whole)
        elif value is True or value is False:
            rows.append([name, "yes" if value else "no"])
        elif value not in (None, "", [], 0):
            rows.append([name, ", ".join(map(text_of, value)) if isinstance(value, list) else text_of(value)])
    return rows


def _brief(value: object) -> str:
    text = str(value)
    return text[:_DIGITS] if _DIGEST.fullmatch(text) else text
