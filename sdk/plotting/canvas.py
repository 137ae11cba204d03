"""Characters to draw on: braille, which has eight dots to a character, or plain ASCII."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Literal, TypeAlias

#: What a piece of a row is, by which it may have a colour.
Role: TypeAlias = Literal["axis", "loss", "held-out", "best"]
Row: TypeAlias = "list[tuple[str, Role]]"
#: The dots of a braille character: two columns of four, from the top.
_BRAILLE, _DOTS = 0x2800, ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
#: The signs of each role, in braille's company and in ASCII.
SIGNS: dict[Role, tuple[str, str]] = {
    "axis": ("│", "|"),
    "loss": ("⠒", "*"),
    "held-out": ("●", "o"),
    "best": ("◆", "@"),
}


class Canvas:
    """Characters, each of which is dots, or a sign over them."""

    def __init__(self, width: int, height: int, *, plain: bool) -> None:
        self._plain = plain
        self._across, self._down = (1, 1) if plain else (2, 4)
        self._width, self._height = width, height
        self._dots: set[tuple[int, int]] = set()
        self._signs: dict[tuple[int, int], Role] = {}

    @property
    def columns(self) -> int:
        """How many dots are beside each other."""
        return self._width * self._across

    def line(self, x: float, y: float, to_x: float, to_y: float) -> None:
        """Draw dots from one place to another; places are between 0 and 1, from the left and from below."""
        (a, b), (c, d) = self._dot(x, y), self._dot(to_x, to_y)
        count = max(abs(c - a), abs(d - b), 1)
        self._dots |= {(round(a + (c - a) * at / count), round(b + (d - b) * at / count)) for at in range(count + 1)}

    def sign(self, x: float, y: float, role: Role) -> None:
        """Put a sign at a place."""
        column, row = self._dot(x, y)
        self._signs[column // self._across, row // self._down] = role

    def _dot(self, x: float, y: float) -> tuple[int, int]:
        return round(x * (self.columns - 1)), round((1 - y) * (self._height * self._down - 1))

    def rows(self) -> Iterator[Row]:
        """Yield the rows from the top, in pieces of one role each."""
        for row in range(self._height):
            cells = [self._cell(column, row) for column in range(self._width)]
            while cells and cells[-1][0] == " ":
                cells.pop()
            yield [("".join(text for text, _ in same), role) for role, same in groupby(cells, lambda cell: cell[1])]

    def _cell(self, column: int, row: int) -> tuple[str, Role]:
        if (role := self._signs.get((column, row))) is not None:
            return SIGNS[role][self._plain], role
        if self._plain:
            return ("*" if (column, row) in self._dots else " "), "loss"
        bits = sum(
            bit
            for x, down in enumerate(_DOTS)
            for y, bit in enumerate(down)
            if (2 * column + x, 4 * row + y) in self._dots
        )
        return (chr(_BRAILLE + bits) if bits else " "), "loss"
