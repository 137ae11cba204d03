"""A list that a notebook shows as a table.

>>> TableList(range(1000))
[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, … 990 more]
>>> TableList([1, 2])[:1], TableList([1, 2]) == [1, 2]
([1], True)
"""

from __future__ import annotations

from typing import SupportsIndex, TypeVar, overload

T = TypeVar("T")

#: The most members, and about the most characters, of the line that a list is shown as.
_MOST, _MOST_CHARACTERS = 10, 400


class TableList(list[T]):
    """A list in every way; its repr is a line, and a notebook shows it as a table. Showing it asks the registry nothing."""

    def __repr__(self) -> str:
        parts: list[str] = []
        for one in self[:_MOST]:
            parts.append(repr(one))
            if sum(map(len, parts)) > _MOST_CHARACTERS:
                break
        left = len(self) - len(parts)
        return f"[{', '.join([*parts, *([f'… {left} more'] if left else [])])}]"

    def _repr_html_(self) -> str:
        from sdk.notebook.rows import list_page

        return list_page(self)

    @overload
    def __getitem__(self, at: SupportsIndex) -> T: ...

    @overload
    def __getitem__(self, at: slice) -> TableList[T]: ...

    def __getitem__(self, at: SupportsIndex | slice) -> T | TableList[T]:
        return TableList(super().__getitem__(at)) if isinstance(at, slice) else super().__getitem__(at)
