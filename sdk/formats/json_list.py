"""The values of a file that is one JSON list, one after the other: only the value at hand is in memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from sdk.formats.messages import json_decoder

_CHUNK_CHARACTERS = 1024 * 1024
#: No value of a list may be longer: the end of one that is broken would be looked for in all of the file.
_MOST_CHARACTERS = 64 * 1024 * 1024
_SPACE = " \t\r\n"
_OF_NUMBERS = re.compile("[-+.0-9eE]*")


def json_list(path: Path) -> Iterator[Any]:
    """Yield the values of the list that a file is; a ValueError stands for one that a reader would lose a part of.

    Raises ValueError that says where the file is no list any more.
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
    """The part of a text that is looked at."""

    def __init__(self, file: IO[str]) -> None:
        self._file, self._text, self._at = file, "", 0
        self.line = 1

    def first(self) -> str:
        """Return the next character that is no space, without taking it; "" at the end."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _SPACE:
                    return self._text[self._at]
                self.line += self._text[self._at] == "\n"
                self._at += 1
            if not self._more():
                return ""

    def take(self, expected: str) -> None:
        """Take the next character. Raises ValueError if it is another one."""
        if (found := self.first()) != expected:
            raise ValueError(f"{expected!r} is expected in line {self.line}, not {found or 'its end'!a}")
        self._at += 1

    def value(self, decoder: json.JSONDecoder) -> Any:
        """Take a value. Raises ValueError for what is none."""
        self.first()
        # Half a number is a number.
        while _OF_NUMBERS.match(self._text, self._at).end() == len(self._text) and self._more():  # type: ignore[union-attr]
            pass
        while True:
            try:
                found, end = self._decoded(decoder)
            except RecursionError:
                raise ValueError(f"a value is nested too deeply in line {self.line}") from None
            except json.JSONDecodeError as error:
                # It may only be cut off: twice as much of it is looked at then.
                if len(self._text) - self._at < _MOST_CHARACTERS and self._more(len(self._text) - self._at):
                    continue
                line = self.line + self._text.count("\n", self._at, error.pos)
                raise ValueError(f"{error.msg} in line {line}") from error
            self.line += self._text.count("\n", self._at, end)
            self._at = end
            return found

    def _decoded(self, decoder: json.JSONDecoder) -> tuple[Any, int]:
        try:
            return decoder.raw_decode(self._text, self._at)
        except json.JSONDecodeError:
            raise
        except ValueError as error:
            # What is wrong with it is no fault of the list; where it ends, a plain decoder says.
            end = json.JSONDecoder().raw_decode(self._text, self._at)[1]
            return ValueError(f"is not a JSON object ({error})"), end

    def _more(self, least: int = 0) -> bool:
        chunk = self._file.read(max(_CHUNK_CHARACTERS, least))
        self._text, self._at = self._text[self._at :] + chunk, 0
        return bool(chunk)
