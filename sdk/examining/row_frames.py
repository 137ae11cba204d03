"""Scores by row as a table of pandas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sdk.errors import Unavailable
from sdk.schemas.evaluation import RowScore

if TYPE_CHECKING:
    import pandas


def row_frame(rows: Sequence[RowScore]) -> pandas.DataFrame:
    """Return a DataFrame with the number of the row as its index: `loss_sum`, `tokens`, `prediction`, and a column for each metric.

    Raises Unavailable where pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise Unavailable(
            "a DataFrame needs pandas, which is not installed; run: pip install pandas, or use the list of evaluation_rows"
        ) from error
    names = sorted({name for row in rows for name in row.scores})
    told = {
        name: [getattr(row, name) for row in rows]
        for name in ("expected", "confidence")
        if any(getattr(row, name) is not None for row in rows)
    }
    columns = {
        "row": [row.row for row in rows],
        "loss_sum": [row.loss_sum for row in rows],
        "tokens": [row.tokens for row in rows],
        "prediction": [row.prediction for row in rows],
        **told,
        **{name: [row.scores.get(name) for row in rows] for name in names},
    }
    types = {"loss_sum": "float64", **dict.fromkeys(names, "float64")}
    return pandas.DataFrame(columns).astype(types).set_index("row")
