"""What is found out about rows: in this process if they are few, else in the process apart."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from registry.errors import Invalid, InvalidData, Unavailable
from registry.rows.comparing.orders import RowsOf, stored_values
from registry.rows.comparing.row_values import RowValues
from registry.rows.judging import judged_limit
from registry.rows.orders import WORK
from registry.rows.process import Breach, ReadingProcess
from registry.rows.reading_limits import MOST_WORK, ReadingLimits
from sdk.formats.rows import RowsError, detect_format
from sdk.rows.data_files import DataFile
from sdk.rows.parquet_rows import MOST_UNFOLDED_TIMES
from sdk.schemas.evaluation import RowScore
from sdk.schemas.held_out import HoldOut
from sdk.schemas.picked_rows import MOST_PICKED, PickedRows
from sdk.schemas.row_file import most_unpacked_bytes, unpacked_bytes
from sdk.schemas.scores import Slice
from sdk.statistics.gates import JudgedLimit, ScoreLimit

#: Files of less than this, and scores by row that unpack to less, are read in this process, where they take some
#: hundredths of a second.
INLINE_BYTES = 125_000
#: Signing a long text takes so many times the memory that reading it takes.
_SIGNED_TIMES = 4
#: Comparing and slicing may take as long as reading this much, for their most rows: a minute.
MOST_COMPARED_LIKE_BYTES = 80 * 1000**2


class Equal(NamedTuple):
    """Which rows are equal."""

    #: How many rows differ, and how many equal others.
    different: int
    repeated: int


class RowReading:
    """Reads rows, of whatever a namespace has stored, within limits of memory and time.

    Without `apart` it reads all in this process, which is then its user's own.
    """

    def __init__(
        self,
        *,
        apart: bool,
        inline_bytes: int = INLINE_BYTES,
        limits: Callable[[int], ReadingLimits] = ReadingLimits.of,
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

    def groups(self, path: Path, column: str, rows: Path, target: Path, *, by: str) -> None:
        """Write the number of the group of each row; `rows` has their numbers, ascending, and `by` is a name in
        `registry.rows.groups.BY`.

        Raises Invalid, InvalidData, Unavailable.
        """
        given = {"path": str(path), "column": column, "rows": str(rows), "target": str(target), "by": by}
        self._explained("groups", path.stat().st_size + rows.stat().st_size, given)

    def slices(self, scores: Path, ident: str, *, dataset: Path, column: str) -> list[Slice]:
        """Return the slices of the scores in a file by a column of the dataset, the largest first.

        Raises Invalid, InvalidData, Verification, Unavailable.
        """
        given = {"scores": str(scores), "ident": ident, "dataset": str(dataset), "column": column}
        few = dataset.stat().st_size < self._inline_bytes and self._few([scores])
        size_bytes = dataset.stat().st_size + MOST_COMPARED_LIKE_BYTES
        found = self._explained("slices", size_bytes, given, here=few)
        return [Slice.model_validate(one) for one in found]

    def picks(
        self,
        scores: tuple[str, Path],
        other: tuple[str, Path] | None,
        *,
        metric: str,
        dataset: Path | None = None,
        by: str | None = None,
        value: str | None = None,
    ) -> PickedRows:
        """Return the rows of a file of scores that are lowest and highest by a metric, and differ most from another, each given as
        (id, path); with `by`, of the rows of a dataset that have a value in a column.

        Raises Invalid, InvalidData, NotFound, Verification, Unavailable.
        """
        files = [path for _, path in (scores, *([] if other is None else [other]))]
        given = {
            "scores": (scores[0], str(scores[1])),
            "other": None if other is None else (other[0], str(other[1])),
            "metric": metric,
            "most": MOST_PICKED,
            "dataset": None if dataset is None else str(dataset),
            "by": by,
            "value": value,
        }
        of_dataset = 0 if dataset is None else dataset.stat().st_size
        few = of_dataset < self._inline_bytes and self._few(files)
        size_bytes = of_dataset + MOST_COMPARED_LIKE_BYTES
        found = self._limited("picks", size_bytes, given, few=few)
        return PickedRows(metric=metric, **{name: found[name] for name in ("rows", "low", "high", "changed")})

    def page(self, scores: tuple[str, Path], *, first: int, most: int) -> tuple[list[RowScore], bool]:
        """Return `most` rows of a file of scores from a place on, and whether others follow. Raises Verification, Invalid,
        Unavailable.
        """
        ident, path = scores
        size_bytes = path.stat().st_size
        given = {"scores": (ident, str(path)), "first": first, "most": most, "size_bytes": size_bytes}
        found = self._limited("page", most_unpacked_bytes(size_bytes), given, few=self._few([path]))
        return [RowScore.model_validate(row) for row in found["rows"]], bool(found["more"])

    def _limited(self, work: str, size_bytes: int, given: dict[str, Any], *, few: bool) -> Any:
        try:
            return self._do(work, size_bytes, given, here=few)
        except Breach as breach:
            kind = Unavailable if breach.of_time else Invalid
            raise kind(f"the scores by row of this evaluation: reading them {breach}") from breach

    def values(
        self, targets: Sequence[RowsOf], metric: str, folder: Path, *, most: int | None = None
    ) -> dict[str, int]:
        """Do the first step of a comparison, see `registry.rows.comparing.orders`. Raises what it raises, Unavailable."""
        given = {"metric": metric, "folder": str(folder), "most": most}
        found: dict[str, int] = self._compared("values", targets, given)
        return found

    def row_values(self, targets: Sequence[RowsOf], metric: str, folder: Path) -> RowValues:
        """Return what all targets scored on the rows that they have in common, where each is compared with one other alone. Raises
        what `values` raises.
        """
        counts = self.values(targets, metric, folder, most=MOST_WORK // len(targets))
        return stored_values(folder, len(targets), counts["left_out"])

    def pairs(self, targets: Sequence[RowsOf], folder: Path, **given: Any) -> dict[str, Any]:
        """Do the second one. Raises Verification, Unavailable."""
        found: dict[str, Any] = self._compared("pairs", targets, {"folder": str(folder), **given})
        return found

    def judge(
        self,
        targets: Sequence[RowsOf],
        metric: str,
        limits: Sequence[ScoreLimit],
        *,
        alpha: float,
        lower_is_better: bool,
        dataset: Path | None = None,
        by: str | None = None,
        cluster: str | None = None,
        signatures: Path | None = None,
    ) -> list[JudgedLimit]:
        """Return what the rows of the first target say to each limit, some beside those of another target.

        `dataset` is the rows' own file, which `by` and `cluster`, columns of it, are read from; without `cluster`, rows that
        `signatures` say are equal count once. Raises Invalid, InvalidData, NotFound, Conflict, Verification, Unavailable.
        """
        files = [path for path in (dataset, signatures) if path is not None]
        size_bytes = sum(path.stat().st_size for path in files)
        few = size_bytes < self._inline_bytes and self._few([Path(path) for _, _, path in targets])
        given = {
            "targets": targets,
            "metric": metric,
            "limits": [asdict(one) for one in limits],
            "alpha": alpha,
            "lower_is_better": lower_is_better,
            "dataset": None if dataset is None else str(dataset),
            "by": by,
            "cluster": cluster,
            "signatures": None if signatures is None else str(signatures),
        }
        try:
            found = self._do("judge", size_bytes + MOST_COMPARED_LIKE_BYTES, given, here=few)
        except Breach as breach:
            kind = Unavailable if breach.of_time else Invalid
            raise kind(f"judging these scores {breach}; ask for fewer limits, or a dataset with fewer rows") from breach
        return [judged_limit(one) for one in found]

    def _compared(self, work: str, targets: Sequence[RowsOf], given: dict[str, Any]) -> Any:
        few = self._few([Path(path) for _, _, path in targets])
        try:
            return self._do(work, MOST_COMPARED_LIKE_BYTES, {"targets": targets, **given}, here=few)
        except Breach as breach:
            raise Invalid(f"comparing these scores by row {breach}; compare fewer at once") from breach

    def _few(self, files: Sequence[Path]) -> bool:
        """Whether files of scores by row are short enough to be read in this process."""
        most = self._inline_bytes
        for path in files:
            with path.open("rb") as file:
                most -= unpacked_bytes(file, most)
            if most <= 0:
                return False
        return True

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
            few = size_bytes * _SIGNED_TIMES < self._inline_bytes and not any(unfolds)
            found: str | None = self._do("sign", size_bytes, given, here=few)
        except Breach as breach:
            return f"it {breach}"
        return found

    def equal(self, signatures: Path, rows: Path, target: Path) -> Equal | None:
        """Write for each of these rows a number from 0 that equal rows share, and return how many are equal, by their
        signatures; None if these don't have the rows. Raises Unavailable, Breach.
        """
        given = {"signatures": str(signatures), "rows": str(rows), "target": str(target)}
        counts: list[int] | None = self._do("equal", signatures.stat().st_size + rows.stat().st_size, given)
        return None if counts is None else Equal(*counts)

    def among(self, held: Path, training: Sequence[Path]) -> dict[str, int]:
        """Return how many `rows` a file of signatures has, and how many of them are among those of others, by kind.
        Raises Unavailable, Breach.
        """
        size_bytes = sum(path.stat().st_size for path in (held, *training))
        found: dict[str, int] = self._do("among", size_bytes, {"held": str(held), "training": [*map(str, training)]})
        return found

    def _explained(self, work: str, size_bytes: int, given: dict[str, Any], *, here: bool | None = None) -> Any:
        """Raises Invalid, InvalidData, Unavailable."""
        try:
            return self._do(work, size_bytes, given, here=here)
        except Breach as breach:
            kind = Unavailable if breach.of_time else InvalidData
            raise kind(f"the dataset {breach}; or leave out --by and --examples") from breach

    def _do(self, work: str, size_bytes: int, given: dict[str, Any], *, here: bool | None = None) -> Any:
        """Do some work in this process if it is `here`, or little is read; else apart."""
        if here is None:
            here = size_bytes < self._inline_bytes
        if self._process is None or here:
            return WORK[work](**given)
        return self._process.ask(work, given, self._limits(size_bytes))


def _is_parquet(path: Path) -> bool:
    try:
        return detect_format(path) == "parquet"
    except RowsError:
        return False
