"""Datasets: rows for training and scoring."""

from __future__ import annotations

from collections.abc import Iterator

from sdk.api.transport import Transport, pages
from sdk.errors import VerificationFailed
from sdk.formats.refs import digest_digits
from sdk.names import segment
from sdk.schemas.artifacts import DatasetRegistration, DatasetView, Transfer

_REGISTERING_S = 600.0


def register(transport: Transport, registration: DatasetRegistration) -> DatasetView:
    """Register a dataset whose file was uploaded. Raises InvalidInput, NotAllowed, QuotaExceeded."""
    return transport.call("POST", "/datasets", DatasetView, body=registration, timeout_s=_REGISTERING_S)


def iterate(transport: Transport) -> Iterator[DatasetView]:
    """Yield the datasets that this client may use, newest first."""
    return pages(transport, "/datasets", DatasetView)


def get(transport: Transport, name: str, *, namespace: str | None = None) -> DatasetView:
    """Return a dataset by digest or name; a name is first looked up in a namespace.

    Raises NotFound, InvalidInput for an ambiguous name, VerificationFailed if the registry returns a different digest.
    """
    found = transport.call("GET", f"/datasets/{segment(name)}", DatasetView, params={"namespace": namespace})
    _require_asked(name, found.digest)
    return found


def locate(transport: Transport, name: str, *, namespace: str | None = None) -> Transfer:
    """Return the location of a dataset's file, by digest or name; with `namespace`, only of one that this namespace has.

    Raises NotFound, InvalidInput for an ambiguous name, VerificationFailed if the registry returns another digest than was
    asked for.
    """
    found = transport.call("GET", f"/datasets/{segment(name)}/file", Transfer, params={"namespace": namespace})
    _require_asked(name, found.sha256)
    return found


def _require_asked(name: str, digest: str) -> None:
    if not digest.startswith(digest_digits(name) or ""):
        raise VerificationFailed(
            f"the registry returned the dataset {digest[:12]} instead of {name[:80]}; tell an admin"
        )


def remove(transport: Transport, name: str, *, namespace: str | None = None) -> None:
    """Remove a dataset, by digest or name, from a namespace, or from all where the caller may write.

    Raises NotFound, InvalidInput for an ambiguous name.
    """
    transport.call("POST", f"/datasets/{segment(name)}/remove", type(None), params={"namespace": namespace})
