"""The scores of an evaluation by the values that rows have in a column of the dataset."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

from registry.errors import Invalid
from registry.rows.comparing.orders import scores_of
from registry.rows.groups import BY, groups_of
from registry.rows.sums import RowSums
from sdk.schemas.scores import MOST_SLICES, Slice

#: How many rows are sorted into slices: some 20 seconds of one core.
_MOST_ROWS = 2_000_000


def slices(*, scores: str, ident: str, dataset: str, column: str) -> list[dict[str, Any]]:
    """Return the slices of the scores in a file, the largest first. Raises Invalid for a column that rows don't have or
    with too many values and for too many rows, InvalidData, Verification.
    """
    import numpy as np

    numbers = array("q")
    for row in scores_of(ident, Path(scores)):
        numbers.append(row.row)
        if len(numbers) > _MOST_ROWS:
            raise Invalid(f"these scores are of more than {_MOST_ROWS} rows, too many to sort by a column", param="by")
    rows = np.frombuffer(numbers, dtype=np.int64)
    found = groups_of(Path(dataset), column, rows, value_of=BY["json"], most=MOST_SLICES)
    sums = [RowSums() for _ in found.values]
    for group, row in zip(found.numbers, scores_of(ident, Path(scores)), strict=True):
        sums[group].add(row)
    each = [_slice(value, of) for value, of in zip(found.shown(), sums, strict=True)]
    each.sort(key=lambda one: (-one.rows - one.failed_rows, one.value))
    return [one.model_dump(mode="json") for one in each]


def _slice(value: str, sums: RowSums) -> Slice:
    metrics = {name: mean for name, mean in sums.means().items() if mean is not None}
    return Slice(
        value=value,
        rows=sums.rows - sums.failed,
        failed_rows=sums.failed,
        unscored_rows=sums.unscored,
        tokens=sums.tokens,
        metrics=metrics,
        scored={name: count for name, count in sums.scored.items() if name in metrics},
    )
