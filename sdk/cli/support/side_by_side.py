"""Two answers side by side, as they come: lines are printed once both sides have them, so that nothing scrolls away or is
painted over, and a terminal also shows the line that is being written.

>>> import io
>>> out = io.StringIO()
>>> both = SideBySide(out, width=25, is_terminal=False)
>>> both.add(0, "one two three four")
>>> both.add(1, "five")
>>> both.end(1); both.end(0)
>>> print(out.getvalue(), end="")
one two    │ five
three four │
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import IO

import click

from sdk.cli.support.layout import columns_of
from sdk.cli.support.output import plain_lines

_BETWEEN = " │ "
_NARROWEST, _TAB = 8, 4
#: Goes to the first column, and clears the line from there.
_BACK, _CLEAR = "\r", "\x1b[K"


@dataclass(frozen=True)
class _Line:
    text: str
    is_dim: bool


@dataclass
class _Side:
    """One answer, broken into lines at blanks."""

    width: int
    lines: list[_Line] = field(default_factory=list)
    current: str = ""
    is_dim: bool = False
    has_ended: bool = False

    def add(self, text: str, *, is_dim: bool) -> None:
        """Append text."""
        if is_dim != self.is_dim:
            if self.current:
                self._break(len(self.current))
            self.is_dim = is_dim
        for character in plain_lines(text):
            if character == "\t":
                character = " " * (_TAB - columns_of(self.current) % _TAB)
            if character == "\n":
                self._break(len(self.current))
                continue
            self.current += character
            if columns_of(self.current) > self.width:
                blank = self.current.rfind(" ", 1)
                # A blank at the end of a line needs no column.
                self._break(blank if blank > 0 else len(self.current) - 1)

    def end(self) -> None:
        """End the last line."""
        if self.current:
            self._break(len(self.current))
        self.has_ended = True

    def has(self, number: int) -> bool:
        """Whether a line is whole, or never comes."""
        return self.has_ended or number < len(self.lines)

    def line(self, number: int) -> _Line:
        """Return a line, or what there is of it."""
        if number < len(self.lines):
            return self.lines[number]
        return _Line(self.current if number == len(self.lines) else "", self.is_dim)

    def _break(self, at: int) -> None:
        self.lines.append(_Line(self.current[:at], self.is_dim))
        rest = self.current[at:]
        self.current = rest.removeprefix(" ")


class SideBySide:
    """Shows two answers in two columns of equal width."""

    def __init__(self, out: IO[str], *, width: int, is_terminal: bool) -> None:
        self._out, self._is_terminal = out, is_terminal
        # The last column stays free: some terminals go to the next line after it.
        self._width = max(_NARROWEST, (width - 1 - len(_BETWEEN)) // 2)
        self._sides = (_Side(self._width), _Side(self._width))
        self._printed = 0

    def head(self, left: str, right: str) -> None:
        """Print what both are called."""
        titles = (_cut(left, self._width), _cut(right, self._width))
        row = self._row(_Line(titles[0], False), _Line(titles[1], False))
        self._out.write((click.style(row, bold=True) if self._is_terminal else row) + "\n")

    def add(self, side: int, text: str, *, is_dim: bool = False) -> None:
        """Append text to the left side, 0, or the right one, 1."""
        self._sides[side].add(text, is_dim=is_dim)
        self._show()

    def end(self, side: int) -> None:
        """End a side's answer; the other's goes on beside blanks."""
        self._sides[side].end()
        self._show()

    def _show(self) -> None:
        left, right = self._sides
        while left.has(self._printed) and right.has(self._printed):
            if left.has_ended and right.has_ended and self._printed >= max(len(left.lines), len(right.lines)):
                break
            row = self._row(left.line(self._printed), right.line(self._printed))
            self._out.write((f"{_BACK}{row}{_CLEAR}\n") if self._is_terminal else f"{row}\n")
            self._printed += 1
        if self._is_terminal:
            row = (
                ""
                if left.has_ended and right.has_ended
                else self._row(*(side.line(self._printed) for side in (left, right)))
            )
            self._out.write(f"{_BACK}{row}{_CLEAR}" + (_BACK if not row else ""))
        self._out.flush()

    def _row(self, left: _Line, right: _Line) -> str:
        room = " " * max(0, self._width - columns_of(left.text))
        first, last = (self._styled(line) for line in (left, right))
        return f"{first}{room}{_BETWEEN}{last}".rstrip()

    def _styled(self, line: _Line) -> str:
        return click.style(line.text, dim=True) if line.is_dim and self._is_terminal and line.text else line.text


def _cut(text: str, width: int) -> str:
    return text if columns_of(text) <= width else text[: width - 1] + "…"
