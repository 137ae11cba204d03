"""Lists that the registry returns page by page."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, TypeVar

from sdk.api.transport import Transport
from sdk.errors import InvalidInput
from sdk.schemas.pages import Page

T = TypeVar("T")

#: The most rows to ask for at once.
_PAGE = 500


def pages(
    transport: Transport, path: str, row: type[T], *, params: dict[str, Any] | None = None, limit: int | None = None
) -> Iterator[T]:
    """Yield the rows of a list, at most `limit` if given; each page is requested when it is needed.

    Raises InvalidInput, before anything is requested, if the limit is less than 1.
    """
    if limit is None:
        return _rows(transport, path, row, {"limit": _PAGE, **(params or {})})
    if limit < 1:
        raise InvalidInput(f"limit is {limit}; give 1 or more", param="limit")
    return islice(_rows(transport, path, row, {"limit": min(limit, _PAGE), **(params or {})}), limit)


def _rows(transport: Transport, path: str, row: type[T], params: dict[str, Any]) -> Iterator[T]:
    cursor: str | None = None
    while True:
        given = {**params, "cursor": cursor}
        page = transport.call("GET", path, Page[row], params=given)  # type: ignore[valid-type]
        yield from page.items
        cursor = page.next
        if cursor is None:
            return
