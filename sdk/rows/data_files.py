"""Rows of several files one after the other, as if they were one: each row is named by its line and its file.

Parquet is read by pyarrow, which only a worker must have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sdk.formats.rows import detect_format, text_values
from sdk.rows.parquet_rows import parquet_rows


def file_values(
    path: Path, columns: Mapping[str, str] | None = None, *, limits_unfolded: bool = False
) -> Iterator[tuple[str, Any]]:
    """Yield (where, value) of each row, for `judge_rows` and `check_rows`; with `limits_unfolded`, only of a Parquet
    file that unfolds to no more than 20 times its size, or to a GiB. Raises RowsError.

    Raises ImportError for Parquet without pyarrow.
    """
    if detect_format(path) != "parquet":
        return text_values(path, columns)
    rows = parquet_rows(path, limits_unfolded=limits_unfolded)
    return ((f"row {number}", value) for number, value in enumerate(rows, start=1))


class DataFile(NamedTuple):
    """A file of rows."""

    path: Path
    #: What messages call the file, if there are several.
    name: str


def as_files(data: Path | Sequence[DataFile]) -> tuple[DataFile, ...]:
    """Return the files of rows that are given as one path, or as several files."""
    return (DataFile(data, data.name),) if isinstance(data, Path) else tuple(data)


def values_of(
    files: Sequence[DataFile],
    columns: Mapping[str, str] | None = None,
    *,
    on_file: Callable[[int], object] = lambda _number: None,
    limits_unfolded: bool = False,
) -> Iterator[tuple[str, Any]]:
    """Yield (where, value) of each row, for `judge_rows` and `check_rows`.

    With several files, `where` is like "line 7 of reviews@v2". `on_file` is told the number of each file, from 0,
    before its first row. With `limits_unfolded`, Parquet is limited as by `file_values`. Raises RowsError, ImportError
    for Parquet without pyarrow.
    """
    for number, file in enumerate(files):
        on_file(number)
        for where, value in file_values(file.path, columns, limits_unfolded=limits_unfolded):
            yield where if len(files) == 1 else f"{where} of {file.name}", value
