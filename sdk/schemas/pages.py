"""Lists in pages.

>>> Page[int](items=[1, 2], next=None).items
[1, 2]
"""

from __future__ import annotations

from typing import Generic, TypeVar

from sdk.schemas.wire import Wire

T = TypeVar("T")


class Page(Wire, Generic[T]):
    """One page of a list. Rows that are added meanwhile don't move others to another page."""

    items: list[T]
    #: Where the next page begins: send it back as `cursor`. None: this is the last page.
    next: str | None = None
