"""The values of any file of rows; Parquet's are read by pyarrow, which only a worker must have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

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
