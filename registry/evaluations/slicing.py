"""The scores of an evaluation by the value of a column of its dataset, from the rows that were recorded."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from registry.artifacts.service import Artifacts
from registry.db.database import Database
from registry.errors import Invalid, NotFound
from registry.evaluations.dataset_rows import can_not_group, rows_of
from registry.evaluations.rows import EvaluationRows
from registry.evaluations.service import Evaluations
from registry.jobs.kinds.evaluation_rows import RowSums
from registry.principal import Principal
from registry.rows.service import RowReading
from sdk.schemas.slices import MOST_SLICES, Slice, SlicedScores

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: How many rows are sorted into slices: some 20 seconds of one core.
_MOST_ROWS = 2_000_000


class Slicing:
    """The service that sums up recorded rows by a column; nothing is computed again."""

    def __init__(
        self, db: Database, artifacts: Artifacts, evaluations: Evaluations, rows: EvaluationRows, reading: RowReading
    ) -> None:
        self._db = db
        self._artifacts = artifacts
        self._evaluations = evaluations
        self._rows = rows
        self._reading = reading

    def slices(self, ident: str, *, by: str, who: Principal) -> SlicedScores:
        """Sum up the rows of an evaluation by the values of the column `by`.

        Raises NotFound for scores that the caller may not see or that have no rows, Invalid for a column that rows don't
        have, or with too many values, and for rows that can't be read, Unavailable.
        """
        numbers = array("q", (row.row for row in self._rows.read(ident, who=who)))
        if len(numbers) > _MOST_ROWS:
            raise Invalid(f"these scores are of more than {_MOST_ROWS} rows, too many to sort by a column", param="by")
        groups, values = self._groups(self._dataset(ident, who), by, numbers, who)
        sums = [RowSums() for _ in values]
        for group, row in zip(groups.tolist(), self._rows.read(ident, who=who), strict=True):
            sums[group].add(row)
        found = [_slice(value, of) for value, of in zip(values, sums, strict=True)]
        found.sort(key=lambda one: (-one.rows - one.failed_rows, one.value))
        return SlicedScores(evaluation=ident, by=by, slices=found)

    def _dataset(self, ident: str, who: Principal) -> str:
        page = self._evaluations.list(digest=None, job=None, base=None, ident=ident, cursor=None, limit=1, who=who)
        if not page.items:
            raise NotFound(f"the scores {ident[:64]!a} can't be read; make them again with: adapterctl eval")
        return page.items[0].dataset

    def _groups(
        self, dataset: str, by: str, numbers: array[int], who: Principal
    ) -> tuple[npt.NDArray[np.int64], list[str]]:
        import numpy as np

        try:
            with rows_of(self._db, self._artifacts, dataset, who) as path:
                rows = np.frombuffer(numbers, dtype=np.int64)
                return self._reading.groups(path, by, rows, by="json", most=MOST_SLICES)
        except NotFound as error:
            raise can_not_group(by, f"{error.message}; see them row by row: adapterctl evals show ID --rows") from error


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
