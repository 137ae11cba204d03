"""The rows of files, divided for a training and its held-out loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sdk.rows.data_files import DataFile
from sdk.rows.holdout import HoldOut, HoldoutError
from sdk.rows.splitting import Splitter
from sdk.schemas.failures import FailureReason
from workers.pipelines.data.rows import CheckedRows, check_files
from workers.pipelines.errors import PipelineError


class Split(NamedTuple):
    """Both sides, each in the order of the files."""

    training: CheckedRows
    held_out: CheckedRows | None


def read_split(data: Path | Sequence[DataFile], how: HoldOut | None, *, columns: str | None) -> Split:
    """Return the rows of files, and the held-out ones; none of these without `how`. Raises PipelineError ("data")."""
    if how is None:
        return Split(check_files(data, columns=columns), None)
    splitter = Splitter(how)
    rows = check_files(data, columns=columns, group_by=how.by, splitter=splitter)
    try:
        out = splitter.out()
    except HoldoutError as error:
        raise PipelineError(FailureReason.DATA, f"The rows can't be split: {error}.") from error
    sides = Split(rows.coming(~out), rows.coming(out))
    for file, left in zip(rows.files, sides.training.by_file(), strict=True):
        if not left:
            raise PipelineError(
                FailureReason.DATA,
                f"All rows of {file.name} are held out; give it more rows, a smaller holdout, or another holdout_seed.",
            )
    return sides
