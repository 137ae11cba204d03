"""Lists that the registry gives page by page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

from sdk.api.transport import Transport
from sdk.schemas.pages import Page

T = TypeVar("T")

#: Rows that are asked for at once.
PAGE = 500


def pages(transport: Transport, path: str, row: type[T], *, params: dict[str, Any] | None = None) -> Iterator[T]:
    """Yield the rows of a list, each page asked for when it is needed."""
    cursor: str | None = None
    while True:
        given = {"limit": PAGE, **(params or {}), "cursor": cursor}
        page = transport.call("GET", path, Page[row], params=given)  # type: ignore[valid-type]
        yield from page.items
        cursor = page.next
        if cursor is None:
            return
