"""What is found out about rows: in this process if they are few, else in the process apart."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from registry.errors import InvalidData, Unavailable
from registry.rows.orders import NUMBERS, WORK
from registry.rows.process import Breach, ReadingProcess
from registry.rows.reading_limits import Limits
from sdk.formats.rows import RowsError, detect_format
from sdk.rows.data_files import DataFile
from sdk.rows.holdout import HoldOut
from sdk.rows.parquet_rows import MOST_UNFOLDED_TIMES

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: Files of less than this are read in this process, where they take a tenth of a second and some 30 MB.
INLINE_BYTES = 1000**2

T = TypeVar("T")


class Equal(NamedTuple):
    """Which rows are equal."""

    #: (rows,) a number from 0 that equal rows share.
    groups: npt.NDArray[np.int64]
    #: How many rows differ, and how many equal others.
    different: int
    repeated: int


class RowReading:
    """Reads rows, of whatever a namespace has stored, within limits of memory and time.

    Without `apart` it reads all in this process, which is then its user's own.
    """

    def __init__(
        self, *, apart: bool, inline_bytes: int = INLINE_BYTES, limits: Callable[[int], Limits] = Limits.of
    ) -> None:
        self._process = ReadingProcess() if apart else None
        self._inline_bytes = inline_bytes
        self._limits = limits

    @property
    def pid(self) -> int | None:
        """The id of the process apart; None if there is none."""
        return None if self._process is None else self._process.pid

    def close(self) -> None:
        """End the process apart, with all that it does."""
        if self._process is not None:
            self._process.close()

    def groups(
        self, path: Path, column: str, rows: npt.NDArray[np.int64], *, by: str, most: int | None = None
    ) -> tuple[npt.NDArray[np.int64], list[str]]:
        """Return the number of the group of each row, given by ascending numbers, (rows,), and how the values of the
        groups are shown, if there may be only `most`; `by` is a name in `registry.rows.groups.BY`.

        Raises Invalid, InvalidData, Unavailable.
        """

        def read(numbers: str, target: str) -> list[str]:
            given = {"path": str(path), "column": column, "rows": numbers, "target": target, "by": by, "most": most}
            values: list[str] = self._explained("groups", path.stat().st_size, given)
            return values

        return _with_numbers(rows, read)

    def texts(self, path: Path, columns: Mapping[str, str] | None, rows: Collection[int]) -> dict[int, tuple[str, str]]:
        """Return what is asked and expected in those of these rows that can be used, by number. Raises InvalidData,
        Unavailable.
        """
        given = {"path": str(path), "columns": None if columns is None else dict(columns), "rows": list(rows)}
        found: list[tuple[int, str, str]] = self._explained("texts", path.stat().st_size, given)
        return {row: (asked, expected) for row, asked, expected in found}

    def sign(
        self,
        files: Sequence[DataFile],
        target: Path,
        *,
        columns: Mapping[str, str] | None,
        how: HoldOut | None,
        training_digest: str | None,
    ) -> str | None:
        """Write the signatures of the rows of files; return why there are none, as the rest of a sentence. Raises
        Unavailable.
        """
        given = {
            "files": [(str(file.path), file.name) for file in files],
            "target": str(target),
            "columns": None if columns is None else dict(columns),
            "held_out": None if how is None else (how.share, how.seed, how.by),
            "training_digest": training_digest,
        }
        # What Parquet unfolds to doesn't depend on its size.
        unfolds = [_is_parquet(file.path) for file in files]
        times = [MOST_UNFOLDED_TIMES if one else 1 for one in unfolds]
        size_bytes = sum(file.path.stat().st_size * many for file, many in zip(files, times, strict=True))
        try:
            found: str | None = self._do("sign", size_bytes, given, unfolds=any(unfolds))
        except Breach as breach:
            return f"it {breach}"
        return found

    def equal(self, signatures: Path, rows: npt.NDArray[np.int64]) -> Equal | None:
        """Return which of these rows are equal, by their signatures; None if these don't have the rows. Raises
        Unavailable, Breach.
        """

        def read(numbers: str, target: str) -> list[int] | None:
            given = {"signatures": str(signatures), "rows": numbers, "target": target}
            found: list[int] | None = self._do("equal", signatures.stat().st_size, given)
            return found

        groups, counts = _with_numbers(rows, read)
        return None if counts is None else Equal(groups, *counts)

    def among(self, held: Path, training: Sequence[Path]) -> dict[str, int]:
        """Return how many `rows` a file of signatures has, and how many of them are among those of others, by kind.
        Raises Unavailable, Breach.
        """
        size_bytes = sum(path.stat().st_size for path in (held, *training))
        found: dict[str, int] = self._do("among", size_bytes, {"held": str(held), "training": [*map(str, training)]})
        return found

    def _explained(self, work: str, size_bytes: int, given: dict[str, Any]) -> Any:
        """Raises Invalid, InvalidData, Unavailable."""
        try:
            return self._do(work, size_bytes, given)
        except Breach as breach:
            kind = Unavailable if breach.of_time else InvalidData
            raise kind(f"the dataset {breach}; or leave out --by and --examples") from breach

    def _do(self, work: str, size_bytes: int, given: dict[str, Any], *, unfolds: bool = False) -> Any:
        if self._process is None or (size_bytes < self._inline_bytes and not unfolds):
            return WORK[work](**given)
        return self._process.ask(work, given, self._limits(size_bytes))


def _with_numbers(rows: npt.NDArray[np.int64], read: Callable[[str, str], T]) -> tuple[npt.NDArray[np.int64], T]:
    """Call a function with files of numbers: these, and those that it writes, which are returned with its result."""
    import numpy as np

    with tempfile.TemporaryDirectory(prefix="numbers-") as folder:
        numbers, target = Path(folder, "rows"), Path(folder, "groups")
        rows.astype(NUMBERS).tofile(numbers)
        result = read(str(numbers), str(target))
        found = np.fromfile(target, NUMBERS, len(rows)) if target.exists() else np.empty(0, NUMBERS)
        return found.astype(np.int64, copy=False), result


def _is_parquet(path: Path) -> bool:
    try:
        return detect_format(path) == "parquet"
    except RowsError:
        return False
