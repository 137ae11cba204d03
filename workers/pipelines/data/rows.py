"""Rows of a dataset file, read by the rules that the client checked texts by."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path

from sdk.formats.columns import parse_columns
from sdk.formats.rows import Row, RowsError, Shape, check_rows
from sdk.rows.reading import file_values
from sdk.rows.texts import said
from sdk.schemas.failures import FailureReason
from workers.pipelines.errors import PipelineError

__all__ = ["Row", "Shape", "count_equal", "read_rows"]


def read_rows(
    path: Path, *, columns: str | None = None, known_labels: Collection[str] | None = None, group_by: str | None = None
) -> list[Row]:
    """Return all rows of a file, which are of one shape; where `known_labels` are given, each label is one of them.

    `columns` is which columns are which keys, as "prompt=question,completion=answer"; None: keys are called as columns. With `group_by`, each row has its group.

    Raises PipelineError ("data") that names the first bad rows and what is wrong with each.
    """
    try:
        keys = None if columns is None else parse_columns(columns)
        return list(check_rows(file_values(path, keys), columns=keys, known_labels=known_labels, group_by=group_by))
    except RowsError as error:
        raise PipelineError(FailureReason.DATA, str(error)) from error


def count_equal(rows: Sequence[Row], others: Sequence[Row]) -> int:
    """Return how many rows say the same as one of the others."""
    known = {_digest(other) for other in others}
    return sum(_digest(row) in known for row in rows)


def _digest(row: Row) -> bytes:
    return hashlib.sha256(said(row)).digest()
