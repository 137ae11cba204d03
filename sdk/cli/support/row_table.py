"""Scores by row as a table: the worst rows first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sdk.cli.support.output import plain, render

if TYPE_CHECKING:
    from sdk.schemas.evaluation import RowScore

#: The most characters of a prediction that are shown.
_SHOWN = 160
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
            *([_said(row.expected)] if labelled else []),
            _said(row.prediction),
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


def _said(text: str | None) -> str | None:
    if text is None:
        return None
    line = plain(" ".join(text.split()))
    return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"
