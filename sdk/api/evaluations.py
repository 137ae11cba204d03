"""Scores of versions and of bare bases."""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Sequence
from typing import Any

from sdk.api.transport import Routes, Transport, pages
from sdk.errors import NotFound
from sdk.names import segment
from sdk.notebook.table_list import TableList
from sdk.schemas.artifacts import Transfer
from sdk.schemas.scores import Comparison, EvaluationView, SlicedScores

#: Many rows are read and resampled some thousand times.
_COMPARING_S = 600.0


def compare(transport: Transport, refs: Sequence[str], **asked: Any) -> Comparison:
    """Compare targets that were scored in the same way on the same rows; `asked` are the route's other parameters.

    Raises NotFound, InvalidInput, Conflict for scores that can't be compared.
    """
    params = {"ref": list(refs), **asked}
    return transport.call("GET", "/evaluations/comparison", Comparison, params=params, timeout_s=_COMPARING_S)


def locate_rows(transport: Transport, ident: str) -> Transfer:
    """Return the location of the scores of each row.

    Raises NotFound, also if there are none, or if they were removed.
    """
    return transport.call("GET", f"/evaluations/{segment(ident)}/rows", Transfer)


class EvaluationRoutes(Routes):
    """What can be asked about scores without files of this machine."""

    def __call__(
        self,
        *,
        digest: str | None = None,
        job: str | None = None,
        base: str | None = None,
        dataset: str | None = None,
        scores_of: str | None = None,
    ) -> builtins.list[EvaluationView]:
        """Scores of a version by its digest, of a job, or of a bare base by its fingerprint; on any rows, or on those of
        the dataset with that digest.

        They are those that the namespace `scores_of` made ("*": any). Without it, they are those of the version's own
        namespace, and of a base those of the namespace in which this client would evaluate it. Raises NotFound if
        `scores_of` can't be read, InvalidInput for a digest that versions of several namespaces have.
        """
        return TableList(self._matching(digest=digest, job=job, base=base, dataset=dataset, namespace=scores_of))

    list = __call__

    def get(self, ident: str) -> EvaluationView:
        """Scores by their id. Raises NotFound."""
        found = next(self._matching(ident=ident), None)
        if found is None or found.id != ident:
            raise NotFound(f"there are no scores {ident!a}; list those of a version with: adapterctl evals list REF")
        return found

    def _matching(
        self,
        *,
        digest: str | None = None,
        job: str | None = None,
        base: str | None = None,
        ident: str | None = None,
        dataset: str | None = None,
        namespace: str | None = None,
    ) -> Iterator[EvaluationView]:
        of = {"digest": digest, "job": job, "base": base, "id": ident, "dataset": dataset, "namespace": namespace}
        return pages(self._transport, "/evaluations", EvaluationView, params=of)

    def slices(self, ident: str, *, by: str) -> SlicedScores:
        """Scores by the value that their rows have in a column of the dataset, of at most 50 values.

        Raises NotFound, also if the scores have no rows, or no longer have them; InvalidInput for a column that the
        rows don't have.
        """
        path = f"/evaluations/{segment(ident)}/slices"
        return self._transport.call("GET", path, SlicedScores, params={"by": by}, timeout_s=_COMPARING_S)
