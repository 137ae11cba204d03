"""The scores of an evaluation by the value of a column of its dataset, from the rows that were recorded."""

from __future__ import annotations

import tempfile
from pathlib import Path

from registry.artifacts.service import Artifacts
from registry.db.database import Database
from registry.errors import NotFound
from registry.evaluations.dataset_rows import can_not_group, rows_of
from registry.evaluations.rows import EvaluationRows
from registry.evaluations.service import Evaluations
from registry.principal import Principal
from registry.rows.service import RowReading
from sdk.schemas.scores import SlicedScores


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
        with tempfile.NamedTemporaryFile(prefix="scores-") as file:
            scores = Path(file.name)
            self._rows.copy(ident, scores, who=who)
            try:
                with rows_of(self._db, self._artifacts, self._dataset(ident, who), who) as dataset:
                    found = self._reading.slices(scores, ident, dataset=dataset, column=by)
            except NotFound as error:
                raise can_not_group(
                    by, f"{error.message}; see them row by row: adapterctl evals show ID --rows"
                ) from error
        return SlicedScores(evaluation=ident, by=by, slices=found)

    def _dataset(self, ident: str, who: Principal) -> str:
        page = self._evaluations.list(digest=None, job=None, base=None, ident=ident, cursor=None, limit=1, who=who)
        if not page.items:
            raise NotFound(f"the scores {ident[:64]!a} can't be read; make them again with: adapterctl eval")
        return page.items[0].dataset
