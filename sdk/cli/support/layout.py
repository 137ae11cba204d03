"""Columns side by side within a width: first sentences are cut, then the least important columns are left out.

>>> name, reason = Strip("NAME", ["ada"]), Strip("REASON", ["better than v1 by chance"], importance=1, may_be_cut=True)
>>> print("\\n".join(laid_out([name, reason], 80).lines))
NAME  REASON
ada   better than v1 by chance
>>> laid_out([name, reason], 22).lines[1], laid_out([name, reason], 8).left_out
('ada   better than v1 …', ['REASON'])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from unicodedata import category, east_asian_width

#: Categories of characters that stand on the one before them.
_MARKS = ("Mn", "Me")
#: Between two columns.
_GAP = 2
#: To what a sentence is cut before a column is left out, and afterwards.
_READABLE, _NARROWEST = 16, 10


@dataclass(frozen=True)
class Strip:
    """A column as it is drawn."""

    header: str
    cells: Sequence[str]
    importance: int = 9
    may_be_cut: bool = False
    on_the_right: bool = False

    @property
    def width(self) -> int:
        """How many columns of a terminal it takes."""
        return max(map(columns_of, (self.header, *self.cells)))


@dataclass(frozen=True)
class Laid:
    """The lines of a table, the header first, and the headers that are left out."""

    lines: list[str]
    left_out: list[str]


def laid_out(strips: Sequence[Strip], width: int) -> Laid:
    """Lay strips out in lines of at most `width`. The first one stays, whole unless it may be cut."""
    wanted = [strip.width for strip in strips]
    kept = list(range(len(strips)))
    for least, every in ((_READABLE, False), (_NARROWEST, True)):
        while len(kept) > 1 and _fewest(strips, wanted, kept, least) > width:
            rest = [at for at in kept[1:] if every or strips[at].importance < 9]
            if not rest:
                break
            kept.remove(min(rest, key=lambda at: (strips[at].importance, -at)))
    widths = _cut(strips, wanted, kept, width)
    lines = [_line([strips[at].header for at in kept], strips, kept, widths)]
    for row in range(len(strips[0].cells) if strips else 0):
        lines.append(_line([strips[at].cells[row] for at in kept], strips, kept, widths))
    return Laid(lines, [strip.header for at, strip in enumerate(strips) if at not in kept])


def _least(strip: Strip, wanted: int, least: int) -> int:
    return max(columns_of(strip.header), min(wanted, least)) if strip.may_be_cut else wanted


def _fewest(strips: Sequence[Strip], wanted: Sequence[int], kept: Sequence[int], least: int) -> int:
    """The width of a table whose sentences are cut to `least`."""
    return sum(_least(strips[at], wanted[at], least) for at in kept) + _GAP * (len(kept) - 1)


def _cut(strips: Sequence[Strip], wanted: Sequence[int], kept: Sequence[int], width: int) -> dict[int, int]:
    """The width of each column that is kept: the widest sentences give way first."""
    widths = {at: wanted[at] for at in kept}
    over = sum(widths.values()) + _GAP * (len(kept) - 1) - width
    lowest = {at: _least(strips[at], wanted[at], _NARROWEST) for at in kept if strips[at].may_be_cut}
    if kept and strips[kept[0]].may_be_cut and len(kept) == 1:
        lowest[kept[0]] = 1
    while over > 0 and (open_ := [at for at in lowest if widths[at] > lowest[at]]):
        largest = max(open_, key=lambda at: widths[at])
        # Down to the next one at once, for a sentence may be megabytes long.
        below = max([lowest[largest], *(widths[at] for at in open_ if widths[at] < widths[largest])])
        step = min(over, max(1, widths[largest] - below))
        widths[largest] -= step
        over -= step
    return widths


def _line(cells: Sequence[str], strips: Sequence[Strip], kept: Sequence[int], widths: dict[int, int]) -> str:
    parts = []
    for at, cell in zip(kept, cells, strict=True):
        text = cut_to(cell, widths[at]) if strips[at].may_be_cut else cell
        room = " " * max(0, widths[at] - columns_of(text))
        parts.append(room + text if strips[at].on_the_right else text + room)
    return (" " * _GAP).join(parts).rstrip()


def columns_of(text: str) -> int:
    """How many columns `text` takes on a terminal: two for a wide character, none for a mark on the one before."""
    if text.isascii():
        return len(text)
    return sum(0 if category(c) in _MARKS else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def cut_to(text: str, width: int) -> str:
    """Return a line, with "…" for what doesn't fit into `width` columns."""
    columns = kept = 0
    for at, character in enumerate(text, start=1):
        columns += columns_of(character) if character > "~" else 1
        if columns > width:
            return text[:kept] + "…"
        if columns < width:
            kept = at
    return text
