"""The values of a file that is one JSON list, and the rows of a CSV file: only the current one is in memory.

The first record of a CSV file names the columns, and each further record is a row.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any

from sdk.formats.messages import json_decoder
from sdk.formats.row_bounds import LONG_ROW, MOST_KEYS, MOST_LINE_BYTES, bounded_lines, within

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


def csv_rows(path: Path, text_keys: Collection[str]) -> Iterator[tuple[int, Any]]:
    """Yield each row with the number of the line that it begins in; a ValueError stands for a row that can't be used.

    An empty column means that a row doesn't have the key, unless it is one of `text_keys`. Raises ValueError for a file
    that can't be read further, csv.Error, UnicodeDecodeError.
    """
    # The limit is global to the process; the lines of a record are limited here, and each text by `within`.
    csv.field_size_limit(max(MOST_LINE_BYTES, csv.field_size_limit()))
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = _Lines(file)
        reader = csv.reader(lines)
        header = _header(next(reader, []))
        lines.end_record()
        for fields in reader:
            begin, size = lines.end_record()
            if not fields:
                # A blank line isn't a row.
                continue
            if len(fields) != len(header):
                yield begin, ValueError("has another number of fields than the header")
                continue
            row = dict(zip(header, fields, strict=True))
            try:
                given = within(
                    {key: text for key, text in row.items() if text != "" or key in text_keys}, size_bytes=4 * size
                )
            except ValueError as error:
                yield begin, error
                continue
            yield begin, given


class _Lines:
    """The lines of a file for a reader of CSV, which joins those that a quoted field is written over."""

    def __init__(self, file: IO[str]) -> None:
        self._lines = bounded_lines(file)
        self._begin, self._number, self._size = 1, 0, 0

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            self._number += 1
            self._size += 0 if line is None else len(line)
            if line is None or self._size > MOST_LINE_BYTES:
                raise ValueError(
                    f"the row that begins in line {self._begin} of the dataset has more than {MOST_LINE_BYTES >> 20} MiB, the "
                    "most that a row may have; close its quotes, or shorten it"
                )
            yield line

    def end_record(self) -> tuple[int, int]:
        """Return the line in which the record that was just read begins, and its size in characters."""
        found = self._begin, self._size
        self._begin, self._size = self._number + 1, 0
        return found


def _header(columns: list[str]) -> list[str]:
    """Return the names of columns. Raises ValueError if there are too many, for names of which a row would lose one, or
    that are equal to a reader of CSV.
    """
    if len(columns) > MOST_KEYS:
        raise ValueError(
            f"the dataset has {len(columns)} columns, and a file may have {MOST_KEYS:,}; leave out what is not needed"
        )
    if twice := next((name for name, times in Counter(columns).items() if times > 1), None):
        raise ValueError(f"the dataset has the column {twice[:80]!r} twice; give each column its own name")
    if len(columns) == 1 and (other := next((mark for mark in (";", "\t", "|") if mark in columns[0]), None)):
        raise ValueError(f"the columns of the dataset are separated by {other!r}; separate them by commas")
    return columns
