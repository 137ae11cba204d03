"""The values of a file that is one JSON list, one after the other: only the current value is in memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from sdk.formats.messages import json_decoder
from sdk.formats.row_bounds import LONG_ROW, MOST_LINE_BYTES, within

_CHUNK_CHARACTERS = 1024 * 1024
_SPACE = " \t\r\n"
_OF_NUMBERS = re.compile("[-+.0-9eE]*")


def json_list(path: Path) -> Iterator[Any]:
    """Yield the values of a file's list; a ValueError stands for a value of which a reader would lose a part.

    Raises ValueError, which says where the file stops being a list.
    """
    decoder = json_decoder()
    with path.open(encoding="utf-8-sig") as file:
        text = _Window(file)
        text.take("[")
        if text.first() == "]":
            text.take("]")
        else:
            yield text.value(decoder)
            while text.first() == ",":
                text.take(",")
                yield text.value(decoder)
            text.take("]")
        if rest := text.first():
            raise ValueError(f"{rest!a} stands behind the list in line {text.line}")


class _Window:
    """The part of a text that is being read."""

    def __init__(self, file: IO[str]) -> None:
        self._file, self._text, self._at = file, "", 0
        self.line = 1

    def first(self) -> str:
        """Return the next character that isn't a space, without consuming it; "" at the end."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _SPACE:
                    return self._text[self._at]
                self.line += self._text[self._at] == "\n"
                self._at += 1
            if not self._more():
                return ""

    def take(self, expected: str) -> None:
        """Consume the next character. Raises ValueError if it isn't the expected one."""
        if (found := self.first()) != expected:
            raise ValueError(f"{expected!r} is expected in line {self.line}, not {found or 'its end'!a}")
        self._at += 1

    def value(self, decoder: json.JSONDecoder) -> Any:
        """Consume a value. Raises ValueError if there isn't one."""
        self.first()
        # Half a number still parses as a number, so its end must be in view.
        while _OF_NUMBERS.match(self._text, self._at).end() == len(self._text) and self._twice():  # type: ignore[union-attr]
            pass
        while True:
            try:
                found, end = self._decoded(decoder)
            except RecursionError:
                raise ValueError(f"a value is nested too deeply in line {self.line}") from None
            except json.JSONDecodeError as error:
                # It may only be cut off.
                if self._twice():
                    continue
                line = self.line + self._text.count("\n", self._at, error.pos)
                whole = len(self._text) - self._at <= MOST_LINE_BYTES
                longer = "" if whole else f", or the row that begins in line {self.line} {LONG_ROW}"
                raise ValueError(f"{error.msg} in line {line}{longer}") from error
            self.line += self._text.count("\n", self._at, end)
            size, self._at = end - self._at, end
            return _bounded(found, size)

    def _decoded(self, decoder: json.JSONDecoder) -> tuple[Any, int]:
        try:
            return decoder.raw_decode(self._text, self._at)
        except json.JSONDecodeError:
            raise
        except ValueError as error:
            # Its fault is not the list's; a plain decoder finds where it ends.
            end = json.JSONDecoder().raw_decode(self._text, self._at)[1]
            return ValueError(f"is not a JSON object ({error})"), end

    def _twice(self) -> bool:
        """Read twice as much of a value; return whether there was more. Of one that is too long, such as one that is
        broken, the end is not searched for.
        """
        size = len(self._text) - self._at
        return size <= MOST_LINE_BYTES and self._more(min(size, MOST_LINE_BYTES + 1 - size))

    def _more(self, least: int = 0) -> bool:
        chunk = self._file.read(max(_CHUNK_CHARACTERS, least))
        self._text, self._at = self._text[self._at :] + chunk, 0
        return bool(chunk)


def _bounded(value: Any, size: int) -> Any:
    """Return the value of a row with this many characters; a ValueError stands for one that is too large."""
    if size > MOST_LINE_BYTES:
        return ValueError(LONG_ROW)
    try:
        return within(value, size_bytes=4 * size)
    except ValueError as error:
        return error
