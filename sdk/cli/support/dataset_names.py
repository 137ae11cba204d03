"""Datasets by all of their names, where records have digests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from sdk.api.datasets import DatasetRoutes
from sdk.errors import NotFound

if TYPE_CHECKING:
    from sdk.client import Client

#: How many datasets are looked up one by one; of more, the list is read.
_FEW = 4


class ShownDatasets:
    """The names that some datasets have for the caller."""

    def __init__(self, client: Client, digests: Iterable[str | None]) -> None:
        self._names: dict[str, list[str]] = {}
        # Not `client.datasets`, which also adds, checks and previews rows.
        datasets = DatasetRoutes(client.transport)
        wanted = {digest for digest in digests if digest}
        if len(wanted) > _FEW:
            views = datasets()
        else:
            views = []
            for digest in sorted(wanted):
                try:
                    views.append(datasets.get(digest))
                except NotFound:
                    # It is removed, or the caller may not read it.
                    continue
        for view in views:
            self._names.setdefault(view.digest, []).extend(view.names or [view.name])

    def of(self, digest: str) -> str:
        """All names of a dataset; the digits that refs take, if it has none that the caller may see."""
        return ", ".join(dict.fromkeys(filter(None, self._names.get(digest, ())))) or digest[:12]

    def in_text(self, text: str) -> str:
        """A text in which each of these datasets' digests, whole or as refs take it, is replaced by its names."""
        for digest in self._names:
            text = text.replace(digest, self.of(digest)).replace(digest[:12], self.of(digest))
        return text
