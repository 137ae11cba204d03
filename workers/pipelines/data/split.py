"""The rows of a file as a training and its held-out loss are given them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from sdk.formats.rows import Row
from sdk.rows.holdout import HoldOut, HoldoutError, held_out, split_unit
from sdk.schemas.failures import FailureReason
from workers.pipelines.data.rows import read_rows
from workers.pipelines.errors import PipelineError


class Split(NamedTuple):
    """Both sides, each in the order of the file."""

    training: list[Row]
    held_out: list[Row]


def read_split(path: Path, how: HoldOut | None, *, columns: str | None) -> Split:
    """Return the rows of a file, and those of them that are held out; none without `how`. Raises PipelineError ("data")."""
    rows = read_rows(path, columns=columns, group_by=None if how is None else how.by)
    if how is None:
        return Split(rows, [])
    try:
        out = held_out([split_unit(row) for row in rows], how)
    except HoldoutError as error:
        raise PipelineError(FailureReason.DATA, f"The rows can't be split: {error}.") from error
    sides = list(zip(rows, out, strict=True))
    return Split([row for row, is_out in sides if not is_out], [row for row, is_out in sides if is_out])
