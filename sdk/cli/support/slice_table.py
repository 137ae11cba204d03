"""Scores by the values of a column as a table."""

from __future__ import annotations

from sdk.cli.support.output import plain, render
from sdk.schemas.slices import SlicedScores

#: How many scores fit into a line of 80 columns, besides value, rows and loss.
_SCORES = 3


def slice_table(found: SlicedScores) -> tuple[str, str | None]:
    """Lay slices out in the given order; also return a remark to print with the table, if there is one."""
    names = sorted({name for one in found.slices for name in one.metrics} - {"loss"})
    shown = names[:_SCORES]
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
        said.append(f"--format json also has {', '.join(names[_SCORES:])}")
    return render([plain(found.by), "rows", "loss", *shown], lines), "; ".join(said) or None
