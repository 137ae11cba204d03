"""Scores of versions and of bare bases, and of each of their rows."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import TYPE_CHECKING

from sdk.api.evaluations import EvaluationRoutes, locate_rows
from sdk.errors import VerificationFailed
from sdk.examining.evaluation_rows import row_frame, write_row_parquet
from sdk.examining.label_counts import LabelCounts, count_labels
from sdk.objects import Registry
from sdk.schemas.evaluation import RowScore
from sdk.schemas.row_file import RowFileError, read_rows

if TYPE_CHECKING:
    import pandas


class EvaluationsAPI(EvaluationRoutes):
    """Scores. Called, it lists those of a version, a job or a base."""

    def __init__(self, registry: Registry) -> None:
        super().__init__(registry.transport)
        self._registry = registry

    def rows(self, ident: str) -> builtins.list[RowScore]:
        """What each row scored, by the id of the scores, in the order of the rows.

        Raises NotFound, also if the scores have no rows, or no longer have them; VerificationFailed.
        """
        # The registry is asked each time, since it decides whether they may be read.
        origin = locate_rows(self._registry.transport, ident)
        path = self._registry.puller.cached_file(origin.sha256, lambda _: origin, doing="fetching scores")
        with path.open("rb") as file:
            try:
                return list(read_rows(file))
            except RowFileError as error:
                raise VerificationFailed(
                    f"the rows of the scores {ident} can't be read: {error}; upgrade with: pip install -U adapterctl"
                ) from error

    def labels(self, ident: str) -> LabelCounts:
        """Which labels a classifier took for which, and how sure it was, counted over its rows.

        Raises as `rows` does.
        """
        return count_labels(self.rows(ident))

    def export_rows(self, ident: str, output: str | Path) -> Path:
        """Write `rows` to a new Parquet file, with the columns of `frame`; return its path.

        Raises as `rows` does; Conflict if the file exists, InvalidInput for its name, Unavailable without
        pyarrow.
        """
        return write_row_parquet(lambda: self.rows(ident), output)

    def frame(self, ident: str) -> pandas.DataFrame:
        """`rows` as a DataFrame: a line for each row, a column for each metric.

        Raises as `rows` does; Unavailable without pandas.
        """
        return row_frame(self.rows(ident))
