"""Finding versions by their recorded facts."""

from __future__ import annotations

from collections.abc import Iterator

from sdk.api.pages import pages
from sdk.api.transport import Transport
from sdk.schemas.search import SortKey, VersionBrief


def iterate(transport: Transport, filter: str, *, sort: SortKey, limit: int | None) -> Iterator[VersionBrief]:  # noqa: A002 - the word of the HTTP interface
    """Yield the versions that match a filter, at most `limit`.

    Raises InvalidInput, which says where the filter is wrong, and NotAllowed.
    """
    return pages(transport, "/search", VersionBrief, params={"filter": filter, "sort": sort}, limit=limit)
