"""The values of any file of rows; Parquet's are read by pyarrow, which only a worker must have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sdk.formats.rows import RowsError, detect_format, first_line, text_values


def file_values(path: Path, columns: Mapping[str, str] | None = None) -> Iterator[tuple[str, Any]]:
    """Yield (where, value) of each row, for `judge_rows` and `check_rows`. Raises RowsError.

    Raises ImportError for Parquet without pyarrow.
    """
    return _parquet(path) if detect_format(path) == "parquet" else text_values(path, columns)


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        number = 0
        for batch in file.iter_batches(batch_size=1024):
            for value in batch.to_pylist():
                number += 1
                # A label that is null is kept, because the column is there.
                label = {"label": None} if "label" in value and value["label"] is None else {}
                yield f"row {number}", {**_without_nulls(value), **label}
    except (pyarrow.ArrowException, OSError) as error:
        raise RowsError(f"the Parquet file can't be read ({first_line(error)}); write it again") from error


def _without_nulls(value: Any) -> Any:
    """Leave out keys that hold null: Parquet gives each object of a column all keys that any of them has."""
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value
