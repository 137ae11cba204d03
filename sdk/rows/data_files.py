"""Rows of several files one after the other, as if they were one: each row is named by its line and its file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sdk.rows.reading import file_values


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
