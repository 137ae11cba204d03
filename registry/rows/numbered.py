"""Rows of a file by their numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from registry.errors import InvalidData
from sdk.formats.rows import RowsError, text_values


def numbered(
    path: Path, rows: list[int], columns: Mapping[str, str] | None = None
) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yield (index in `rows`, where, value) for the rows with these numbers, which must ascend. Raises InvalidData."""
    place = 0
    try:
        for number, (where, value) in enumerate(text_values(path, columns)):
            if place == len(rows):
                return
            if number == rows[place] and isinstance(value, dict):
                yield place, where, value
                place += 1
    except RowsError as error:
        raise InvalidData(str(error)) from error
    if place < len(rows):
        raise InvalidData(
            f"row {rows[place]} of the dataset can't be read; score the targets again: adapterctl eval REF REF --again"
        )
