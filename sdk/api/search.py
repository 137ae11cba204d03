"""Finding versions by their recorded facts."""

from __future__ import annotations

from collections.abc import Iterator

from sdk.api.pages import pages
from sdk.api.transport import Transport
from sdk.schemas.search import SortKey, VersionBrief


def iterate(
    transport: Transport,
    filter: str,  # noqa: A002 - the word of the HTTP interface
    *,
    sort: SortKey,
    limit: int | None,
    scores_of: str | None = None,
) -> Iterator[VersionBrief]:
    """Yield the versions that match a filter, at most `limit`.

    Raises InvalidInput, which says where the filter is wrong, NotFound for a namespace that can't be read, and
    NotAllowed.
    """
    asked = {"filter": filter, "sort": sort, "scores_of": scores_of}
    return pages(transport, "/search", VersionBrief, params=asked, limit=limit)
