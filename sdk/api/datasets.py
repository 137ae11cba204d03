"""Datasets: rows for training and scoring."""

from __future__ import annotations

import builtins

from sdk.api.transport import Routes, Transport, pages
from sdk.errors import VerificationFailed
from sdk.formats.refs import digest_digits
from sdk.names import segment
from sdk.notebook.table_list import TableList
from sdk.schemas.artifacts import DatasetRegistration, DatasetView, Transfer

_REGISTERING_S = 600.0


def register(transport: Transport, registration: DatasetRegistration) -> DatasetView:
    """Register a dataset whose file was uploaded. Raises InvalidInput, NotAllowed, QuotaExceeded."""
    return transport.call("POST", "/datasets", DatasetView, body=registration, timeout_s=_REGISTERING_S)


def _require_asked(name: str, digest: str) -> None:
    if not digest.startswith(digest_digits(name) or ""):
        raise VerificationFailed(
            f"the registry returned the dataset {digest[:12]} instead of {name[:80]}; tell an admin"
        )


class DatasetRoutes(Routes):
    """What can be asked about datasets without files of this machine."""

    def __call__(self) -> builtins.list[DatasetView]:
        """The datasets that this client may use, newest first."""
        return TableList(pages(self._transport, "/datasets", DatasetView))

    list = __call__

    def get(self, name: str, *, namespace: str | None = None) -> DatasetView:
        """Return a dataset by its digest or the first 12 digits of it, by `NAME@v2`, or by name: the newest so called.

        A name is first looked up in `namespace`. Raises NotFound, InvalidInput if several datasets fit,
        VerificationFailed if the registry returns a different digest.
        """
        params = {"namespace": namespace}
        found = self._transport.call("GET", f"/datasets/{segment(name)}", DatasetView, params=params)
        _require_asked(name, found.digest)
        return found

    def locate(self, name: str, *, namespace: str | None = None) -> Transfer:
        """Return the location of a dataset's file, by digest or name; with `namespace`, only of one that it has.

        Raises NotFound, InvalidInput for a name that is used in several namespaces, VerificationFailed if the registry
        returns another digest than was asked for.
        """
        params = {"namespace": namespace}
        found = self._transport.call("GET", f"/datasets/{segment(name)}/file", Transfer, params=params)
        _require_asked(name, found.sha256)
        return found

    def remove(self, name: str, *, namespace: str | None = None, only_name: bool = False) -> None:
        """Remove a dataset, by digest or name as in `get`; versions trained on it still name it.

        It is removed from `namespace`, whose dataset is then meant by a name, or else from all where this client may
        write. With `only_name`, the rows stay and lose this name alone, in each namespace in which they have another. Raises
        NotFound, InvalidInput for a name that is used in several namespaces, Conflict for the only name of the rows.
        """
        params = {"namespace": namespace, "only_name": True if only_name else None}
        self._transport.call("POST", f"/datasets/{segment(name)}/remove", type(None), params=params)
