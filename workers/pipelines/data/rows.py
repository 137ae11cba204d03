"""Rows of a dataset file, read by the rules that the client checked texts by; Parquet is looked into only here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from sdk.formats.columns import parse_columns
from sdk.formats.rows import Row, RowsError, Shape, check_rows, detect_format, first_line, text_values
from sdk.schemas.failures import FailureReason
from workers.pipelines.errors import PipelineError

__all__ = ["Row", "Shape", "count_equal", "read_rows"]


def read_rows(path: Path, *, columns: str | None = None, known_labels: Collection[str] | None = None) -> list[Row]:
    """Return all rows of a file, which are of one shape; where `known_labels` are given, each label is one of them.

    `columns` is which columns are which keys, as "prompt=question,completion=answer"; None: keys are called as columns.

    Raises PipelineError ("data") that names the first bad rows and what is wrong with each.
    """
    try:
        keys = None if columns is None else parse_columns(columns)
        values = _parquet(path) if detect_format(path) == "parquet" else text_values(path, keys)
        return list(check_rows(values, columns=keys, known_labels=known_labels))
    except RowsError as error:
        raise PipelineError(FailureReason.DATA, str(error)) from error


def count_equal(rows: Sequence[Row], others: Sequence[Row]) -> int:
    """Return how many rows say the same as one of the others."""
    known = {_said(other) for other in others}
    return sum(_said(row) in known for row in rows)


def _said(row: Row) -> bytes:
    # Arguments of tools may hold anything that JSON can, in any order.
    return hashlib.sha256(json.dumps(row.fields, sort_keys=True).encode()).digest()


def _without_nulls(value: Any) -> Any:
    """Leave out keys that hold null: Parquet gives each object of a column all keys that any of them has."""
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _parquet(path: Path) -> Iterator[tuple[str, Any]]:
    # pyarrow comes with datasets.
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        number = 0
        for batch in file.iter_batches(batch_size=1024):
            for value in batch.to_pylist():
                number += 1
                # A column is there, whatever is in it.
                label = {"label": None} if "label" in value and value["label"] is None else {}
                yield f"row {number}", {**_without_nulls(value), **label}
    except (pyarrow.ArrowException, OSError) as error:
        raise RowsError(f"the Parquet file can't be read ({first_line(error)}); write it again") from error
