"""The scores of an evaluation by the value of a column of its dataset, from the rows that were recorded; and the file of
the dataset's rows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from registry.artifacts.service import Artifacts
from registry.datasets.finding import find_dataset
from registry.db.database import Database
from registry.errors import Invalid, NotFound
from registry.evaluations.rows import EvaluationRows
from registry.evaluations.service import EvaluationQuery, Evaluations
from registry.principal import Principal
from registry.rows.service import RowReading
from sdk.formats.rows import detect_format
from sdk.schemas.scores import SlicedScores

#: The largest dataset that is read for this.
MOST_BYTES = 2 * 1000**3


@dataclass(frozen=True, eq=False)
class Slicing:
    """The service that sums up recorded rows by a column; nothing is computed again."""

    _db: Database
    _artifacts: Artifacts
    _evaluations: Evaluations
    _rows: EvaluationRows
    _reading: RowReading

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
        page = self._evaluations.list(EvaluationQuery(id=ident, limit=1), who=who)
        if not page.items:
            raise NotFound(f"the scores {ident[:64]!a} can't be read; make them again with: adapterctl eval")
        return page.items[0].dataset


@contextmanager
def rows_of(db: Database, artifacts: Artifacts, dataset: str, who: Principal) -> Iterator[Path]:
    """Open a copy of the bytes of a dataset that the caller may read, by its digest.

    Raises NotFound if it was removed or the caller may not read it, and what `dataset_file` raises.
    """
    try:
        with db.read() as session:
            row = find_dataset(session, dataset, who).row.dataset
            digest, size_bytes = row.digest, row.size_bytes
    except NotFound as error:
        raise NotFound(f"the dataset {dataset[:12]} was removed, or this token may not read it") from error
    with dataset_file(artifacts, digest, size_bytes) as path:
        yield path


def can_not_group(by: str, why: str) -> Invalid:
    """The error if rows are to be grouped by a column and their dataset can't be read."""
    return Invalid(f"rows can't be grouped by {by[:80]!a}: {why}", param="by")


@contextmanager
def dataset_file(artifacts: Artifacts, digest: str, size_bytes: int) -> Iterator[Path]:
    """Open a copy of a dataset's bytes for the block. Raises Invalid if it is too large or Parquet, Verification."""
    if size_bytes > MOST_BYTES:
        raise Invalid(
            f"the dataset {digest[:12]} has more than {MOST_BYTES // 1000**3} GB, which are not read for this; "
            "leave out --by and --examples"
        )
    with tempfile.NamedTemporaryFile(prefix="rows-") as file:
        path = Path(file.name)
        artifacts.copy(digest, path)
        if detect_format(path) == "parquet":
            raise Invalid(
                f"the rows {digest[:12]} are Parquet, which the registry does not read; add them as JSONL: adapterctl data add FILE"
            )
        yield path
