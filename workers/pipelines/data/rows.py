"""Rows of dataset files, read by the same rules by which the client checked them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from sdk.formats.columns import parse_columns
from sdk.formats.rows import Row, RowsError, Shape, check_rows
from sdk.rows.data_files import DataFile, as_files, values_of
from sdk.rows.holdout import HoldoutError, split_unit
from sdk.rows.splitting import Splitter
from sdk.rows.texts import row_digest
from sdk.schemas.failures import FailureReason
from sdk.schemas.held_out import HoldOut
from workers.pipelines.errors import PipelineError, named

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["CheckedRows", "Row", "Rows", "Shape", "check_files", "count_equal", "read_rows"]


class Rows(Protocol):
    """Rows of one shape, in memory or in files; there is at least one."""

    def __iter__(self) -> Iterator[Row]:
        """Yield each row, in its order."""

    def __len__(self) -> int:
        """Return how many there are."""


@dataclass(frozen=True)
class CheckedRows:
    """Rows of checked files. Each pass reads the files again, so that only one row is in memory at a time."""

    files: tuple[DataFile, ...]
    columns: Mapping[str, str] | None
    group_by: str | None
    #: Usable rows of each file.
    rows: tuple[int, ...]
    #: How often each of these rows occurs, (rows of all files,) as integers; None: once.
    times: npt.NDArray[Any] | None = None

    def __iter__(self) -> Iterator[Row]:
        values = values_of(self.files, self.columns)
        for number, row in enumerate(check_rows(values, columns=self.columns, group_by=self.group_by)):
            if self.times is None:
                yield row
            else:
                yield from repeat(row, int(self.times[number]))

    def __len__(self) -> int:
        return sum(self.rows) if self.times is None else int(self.times.sum())

    def coming(self, times: npt.NDArray[Any]) -> CheckedRows:
        """Return the same rows, each repeated as given, (rows of all files,)."""
        return replace(self, times=times)

    def by_file(self) -> list[int]:
        """Return how many rows come from each file."""
        import numpy as np

        if self.times is None:
            return list(self.rows)
        return [int(part.sum()) for part in np.split(self.times, np.cumsum(self.rows)[:-1])]


def check_files(
    data: Path | Sequence[DataFile],
    *,
    columns: str | None = None,
    known_labels: Collection[str] | None = None,
    group_by: str | None = None,
    splitter: Splitter | None = None,
) -> CheckedRows:
    """Return the rows of files after checking all of them; see `read_rows`. Each row is passed to a `splitter`."""
    files = as_files(data)
    found = [0] * len(files)
    at = 0

    def begun(number: int) -> None:
        # A row is checked as soon as its value has been read.
        nonlocal at
        at = number

    with named(FailureReason.DATA, "{error}", RowsError):
        keys = None if columns is None else parse_columns(columns)
        values = values_of(files, keys, on_file=begun)
        for row in check_rows(values, columns=keys, known_labels=known_labels, group_by=group_by):
            found[at] += 1
            if splitter is not None:
                splitter.add(split_unit(row))
        for file, rows in zip(files, found, strict=True):
            if not rows:
                raise RowsError(f"{file.name} has no rows; leave it out, or give it some")
    return CheckedRows(files, keys, group_by, tuple(found))


def read_rows(path: Path, *, columns: str | None = None, known_labels: Collection[str] | None = None) -> list[Row]:
    """Return all rows of a file, which have one shape; with `known_labels`, each label must be one of them.

    `columns` maps keys to columns, as "prompt=question,completion=answer"; None: keys are named like columns.

    Raises PipelineError ("data"), naming the first bad rows and what is wrong with each.
    """
    with named(FailureReason.DATA, "{error}", RowsError):
        keys = None if columns is None else parse_columns(columns)
        values = values_of(as_files(path), keys)
        return list(check_rows(values, columns=keys, known_labels=known_labels))


def count_equal(rows: Rows, others: Rows) -> int:
    """Return how many rows are equal to one of the others, of which there may be many more."""
    wanted = [row_digest(row) for row in rows]
    known = set(wanted)
    found = {digest for digest in map(row_digest, others) if digest in known}
    return sum(digest in found for digest in wanted)


def by_first_reference(rows: Sequence[Row]) -> tuple[list[Row], dict[int, list[str]]]:
    """Return rows of {prompt, completion}, each with its first reference, and the other references by the row's number."""
    return [_answered(row) for row in rows], {
        number: row.fields["references"][1:] for number, row in enumerate(rows) if row.shape == "references"
    }


def _answered(row: Row) -> Row:
    if row.shape != "references":
        return row
    first = row.fields["references"][0]
    fields: dict[str, Any] = {key: value for key, value in row.fields.items() if key != "references"}
    of_messages = isinstance(fields["prompt"], list)
    fields["completion"] = [{"role": "assistant", "content": first}] if of_messages else first
    return Row(row.where, "prompt", fields, row.group)


class Split(NamedTuple):
    """Both sides, each in the order of the files."""

    training: CheckedRows
    held_out: CheckedRows | None


def halved(rows: CheckedRows, how: HoldOut) -> Split:
    """Return held-out rows to look at, and as many others that are not. Rows with the same text, and groups, stay together.

    Raises PipelineError ("data").
    """
    import numpy as np

    assert rows.times is not None
    splitter = Splitter(replace(how, share=0.5))
    for row in rows:
        splitter.add(split_unit(row))
    with named(
        FailureReason.DATA,
        "The held-out rows can't be split into those to choose by and others: {error}.",
        HoldoutError,
    ):
        out = splitter.out()
    others = np.zeros_like(rows.times)
    others[np.flatnonzero(rows.times)[out]] = True
    return Split(rows.coming(rows.times & ~others), rows.coming(others))


def read_split(data: Path | Sequence[DataFile], how: HoldOut | None, *, columns: str | None) -> Split:
    """Return the rows of files, and the held-out ones; none of these without `how`. Raises PipelineError ("data")."""
    if how is None:
        return Split(check_files(data, columns=columns), None)
    splitter = Splitter(how)
    rows = check_files(data, columns=columns, group_by=how.by, splitter=splitter)
    with named(FailureReason.DATA, "The rows can't be split: {error}.", HoldoutError):
        out = splitter.out()
    sides = Split(rows.coming(~out), rows.coming(out))
    for file, left in zip(rows.files, sides.training.by_file(), strict=True):
        if not left:
            raise PipelineError(
                FailureReason.DATA,
                f"All rows of {file.name} are held out; give it more rows, a smaller holdout, or another holdout_seed.",
            )
    return sides
