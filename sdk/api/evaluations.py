"""Scores of versions and of bare bases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sdk.api.transport import Transport, pages
from sdk.errors import NotFound
from sdk.names import segment
from sdk.schemas.artifacts import Transfer
from sdk.schemas.scores import Comparison, EvaluationView, SlicedScores

#: Many rows are read and resampled some thousand times.
_COMPARING_S = 600.0


def iterate(
    transport: Transport,
    *,
    digest: str | None = None,
    job: str | None = None,
    base: str | None = None,
    ident: str | None = None,
    dataset: str | None = None,
    namespace: str | None = None,
) -> Iterator[EvaluationView]:
    """Yield the scores of a version, of a job, of a bare base by its fingerprint, or with an id; on any or given data.

    With `namespace`, only those that its jobs made ("*": any's); without it, those that count for the version or base.
    Raises NotFound, InvalidInput for a digest that versions of several namespaces have.
    """
    of = {"digest": digest, "job": job, "base": base, "id": ident, "dataset": dataset, "namespace": namespace}
    return pages(transport, "/evaluations", EvaluationView, params=of)


def get(transport: Transport, ident: str) -> EvaluationView:
    """Return scores by their id. Raises NotFound."""
    found = next(iterate(transport, ident=ident), None)
    if found is None or found.id != ident:
        raise NotFound(f"there are no scores {ident!a}; list those of a version with: adapterctl evals list REF")
    return found


def compare(transport: Transport, refs: Sequence[str], **asked: Any) -> Comparison:
    """Compare targets that were scored in the same way on the same rows; `asked` are the route's other parameters.

    Raises NotFound, InvalidInput, Conflict for scores that can't be compared.
    """
    params = {"ref": list(refs), **asked}
    return transport.call("GET", "/evaluations/comparison", Comparison, params=params, timeout_s=_COMPARING_S)


def slices(transport: Transport, ident: str, *, by: str) -> SlicedScores:
    """Return scores by the values of a column.

    Raises NotFound, also if there are no rows; InvalidInput for the column.
    """
    path = f"/evaluations/{segment(ident)}/slices"
    return transport.call("GET", path, SlicedScores, params={"by": by}, timeout_s=_COMPARING_S)


def locate_rows(transport: Transport, ident: str) -> Transfer:
    """Return the location of the scores of each row.

    Raises NotFound, also if there are none, or if they were removed.
    """
    return transport.call("GET", f"/evaluations/{segment(ident)}/rows", Transfer)
