"""The rows of a CSV file: its first record names the columns, and each further record is a row."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any

from sdk.formats.row_bounds import MOST_KEYS, MOST_LINE_BYTES, bounded_lines, within


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
