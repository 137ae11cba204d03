"""Pages by cursor: each begins after a row that the reader has seen, so new rows don't shift the pages.

>>> cursor = write_cursor(("production", 7))
>>> read_cursor(cursor, (str, int))
('production', 7)
>>> read_cursor("nonsense", (int,))
Traceback (most recent call last):
registry.errors.Invalid: the cursor did not come from this list; start again without one
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, TypedDict, TypeVar

from pydantic import Field
from sqlalchemy import Select, tuple_
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import QueryableAttribute

from registry.errors import Invalid
from sdk.schemas.wire import Page

T = TypeVar("T")
R = TypeVar("R")

#: How many bytes of the database the rows of one page may take.
MOST_PAGE_BYTES = 8 * 1024 * 1024

#: What a service returns for a list: the page as sent over the API.
Paged = Page


def write_cursor(values: Sequence[Any]) -> str:
    """Return the opaque text of a position: the sort key of the last row that was seen."""
    text = json.dumps([v.isoformat() if isinstance(v, datetime) else v for v in values], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def read_cursor(cursor: str, kinds: Sequence[type[Any]]) -> tuple[Any, ...]:
    """Return the values of a cursor, of exactly these types. Raises Invalid for any other text."""
    try:
        raw = base64.b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        values = json.loads(raw)
        if not isinstance(values, list):
            raise ValueError("no list")
        return tuple(_value(value, kind) for value, kind in zip(values, kinds, strict=True))
    except (ValueError, OverflowError, RecursionError, binascii.Error, UnicodeError):
        raise Invalid("the cursor did not come from this list; start again without one", param="cursor") from None


def _value(value: Any, kind: type[Any]) -> Any:
    """Return one value of a cursor, or raise ValueError if its type is not that of the list's key."""
    if kind is datetime and type(value) is str:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise ValueError("a time without a time zone")
        return moment.astimezone(UTC)
    small = not isinstance(value, int) or -(2**63) <= value < 2**63
    plain = not isinstance(value, str) or value.isprintable()
    if type(value) is not kind or not small or not plain:
        raise ValueError("another kind")
    return value


#: Where the page begins: `next` of the page before.
Cursor = Annotated[
    str | None, Field(max_length=1000, description="`next` of the previous page; left out for the first.")
]
Limit = Annotated[int, Field(ge=1, le=1000, description="Rows per page.")]


class Paging(TypedDict, total=False):
    """Which page of a list is asked for."""

    #: `next` of the page before.
    cursor: str | None
    #: Rows at most.
    limit: int


def page_of(
    session: Session,
    query: Select[R],
    key: QueryableAttribute[Any],
    *more: QueryableAttribute[Any],
    views: Callable[[Sequence[R]], list[T]],
    cursor: str | None = None,
    limit: int = 100,
    oldest_first: bool = False,
    weight: QueryableAttribute[int] | None = None,
) -> Page[T]:
    """Run a query for one page, in the order of the columns of a unique key, and return it as sent over the API.

    The rows with the greatest keys come first, unless `oldest_first`. If rows may be long, `weight` is the column that says how long: then a page ends after `MOST_PAGE_BYTES`, though never
    before its first row.
    """
    keys = (key, *more)
    seen = None if cursor is None else read_cursor(cursor, [column.type.python_type for column in keys])
    ordered = in_order(query, keys, seen, newest_first=not oldest_first)
    if weight is not None:
        limit = fitting(session.scalars(ordered.with_only_columns(weight).limit(limit)), limit)
    rows = list(session.scalars(ordered.limit(limit + 1)).unique())
    following = None
    if len(rows) > limit:
        following = write_cursor([getattr(rows[limit - 1], column.key) for column in keys])
    return Page(items=views(rows[:limit]), next=following)


def in_order(query: Select[R], keys: Sequence[Any], seen: Sequence[Any] | None, *, newest_first: bool) -> Select[R]:
    """Put a query in the order of these columns, after the row with the values `seen` in them."""
    if seen is not None:
        here, there = tuple_(*keys), tuple_(*seen)
        query = query.where(here < there if newest_first else here > there)
    return query.order_by(*(column.desc() if newest_first else column.asc() for column in keys))


def fitting(sizes: Iterable[int], limit: int) -> int:
    """How many rows of these sizes fit into a page; at least one, and no more than `limit`."""
    total = 0
    for count, size_bytes in enumerate(sizes):
        total += size_bytes
        if total > MOST_PAGE_BYTES and count > 0:
            return count
    return limit
