"""Rows of a file of scores: those that score lowest and highest or changed most, and one page of all of them.

All functions are called by name in a process apart, with paths and plain values.
"""

from __future__ import annotations

import gzip
import heapq
import io
import itertools
import zlib
from array import array
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from registry.errors import Invalid, NotFound, Verification
from registry.rows.comparing.orders import scores_of
from registry.rows.comparing.row_values import weighed
from registry.rows.groups import BY, groups_of
from sdk.schemas.evaluation import RowScore
from sdk.schemas.picked_rows import MOST_PICKED_TEXT, MOST_SHOWN_TEXT
from sdk.schemas.row_file import MOST_LINE_BYTES, most_unpacked_bytes
from sdk.schemas.scores import MOST_SLICES
from sdk.schemas.wire import read_json

#: How many rows are looked at for one value of a column: some 20 seconds of one core.
_MOST_SLICED_ROWS = 2_000_000
_TEXTS = ("prediction", "content", "reasoning", "expected")


class _Row(NamedTuple):
    """A row in an order: the rank first, then its number, so that of equal ones the first comes first."""

    rank: float
    minus_row: int
    score: float
    other: float | None
    prediction: str | None
    other_prediction: str | None


@dataclass
class _Best:
    """The rows with the largest ranks so far."""

    most: int
    rows: list[_Row] = field(default_factory=list)

    def add(self, row: _Row) -> None:
        if len(self.rows) < self.most:
            heapq.heappush(self.rows, row)
        elif row > self.rows[0]:
            heapq.heapreplace(self.rows, row)

    def told(self) -> list[dict[str, Any]]:
        return [
            {
                "row": -row.minus_row,
                "score": row.score,
                "other": row.other,
                "prediction": _cut(row.prediction, MOST_PICKED_TEXT),
                "other_prediction": _cut(row.other_prediction, MOST_PICKED_TEXT),
            }
            for row in sorted(self.rows, reverse=True)
        ]


def picks(
    *,
    scores: tuple[str, str],
    other: tuple[str, str] | None,
    metric: str,
    most: int,
    dataset: str | None = None,
    by: str | None = None,
    value: str | None = None,
) -> dict[str, Any]:
    """Return up to `most` rows each with the lowest and the highest scores by a metric, and with the largest differences from
    another file, each file given as (id, path); with `by`, of the rows of a dataset that have a value in this column.

    Raises Invalid for a metric that no row has, and for a column that rows don't have; NotFound for a value that none has;
    InvalidData, Verification.
    """
    ident, path = scores
    wanted = None if by is None or dataset is None else _of_value(scores, dataset, by, value or "")
    low, high, changed, count = _Best(most), _Best(most), _Best(most), 0
    names: set[str] = set()
    others = iter(()) if other is None else scores_of(other[0], Path(other[1]))
    for row, beside in _together(scores_of(ident, Path(path)), others):
        if wanted is not None and row.row not in wanted:
            continue
        names.update(row.scores)
        if (score := _score(row, metric)) is None:
            continue
        count += 1
        compared = None if beside is None else _score(beside, metric)
        texts = (row.scored_text, None if beside is None else beside.scored_text)
        low.add(_Row(-score, -row.row, score, compared, *texts))
        high.add(_Row(score, -row.row, score, compared, *texts))
        if compared is not None and compared != score:
            changed.add(_Row(abs(score - compared), -row.row, score, compared, *texts))
    if not count and wanted is None:
        known = ", ".join(["loss", *sorted(names)])
        raise Invalid(f"no row has a score {metric[:80]!a}; choose one of: {known}", param="metric")
    return {"rows": count, "low": low.told(), "high": high.told(), "changed": changed.told()}


def page(*, scores: tuple[str, str], first: int, most: int, size_bytes: int) -> dict[str, Any]:
    """Return `most` rows of a file of this size from the one at the place `first` on, and whether others follow. Raises
    Verification for a file that unpacks to too much, or isn't one of scores.
    """
    ident, path = scores
    with Path(path).open("rb") as file:
        lines = list(itertools.islice(_lines(ident, file, most_unpacked_bytes(size_bytes)), first, first + most + 1))
    try:
        rows = [read_json(RowScore, line) for line in lines[:most]]
    except ValueError as error:
        raise _unreadable(ident, "a line of it is not a row") from error
    return {"rows": [_shown(row).model_dump(mode="json") for row in rows], "more": len(lines) > most}


def _of_value(scores: tuple[str, str], dataset: str, by: str, value: str) -> Collection[int]:
    """Return the numbers of the rows that have a value in a column, as slices show it."""
    import numpy as np

    numbers = array("q")
    for row in scores_of(scores[0], Path(scores[1])):
        numbers.append(row.row)
        if len(numbers) > _MOST_SLICED_ROWS:
            raise Invalid(
                f"these scores are of more than {_MOST_SLICED_ROWS} rows, too many to look for a value", param="by"
            )
    rows = np.frombuffer(numbers, dtype=np.int64)
    found = groups_of(Path(dataset), by, rows, value_of=BY["json"], most=MOST_SLICES)
    shown = found.shown()
    if value not in shown:
        raise NotFound(f"no row has the value {value[:80]!a} in {by[:80]!a}; choose one of the slices", param="value")
    return frozenset(rows[found.numbers == shown.index(value)].tolist())


def _together(rows: Iterator[RowScore], others: Iterator[RowScore]) -> Iterator[tuple[RowScore, RowScore | None]]:
    """Yield each row with the other file's row of the same number; both files are in the order of the numbers."""
    beside = next(others, None)
    for row in rows:
        while beside is not None and beside.row < row.row:
            beside = next(others, None)
        yield row, beside if beside is not None and beside.row == row.row else None


def _score(row: RowScore, metric: str) -> float | None:
    """Return what a row scores by itself."""
    value, mass = weighed(row, metric)
    return value / mass if value is not None and mass else None


def _lines(ident: str, file: Any, most_bytes: int) -> Iterator[bytes]:
    """Yield the lines of a file of scores, none of which is looked at."""
    count = 0
    try:
        with gzip.GzipFile(fileobj=file, mode="rb") as packed:
            lines = io.BufferedReader(packed, 1 << 16)
            while line := lines.readline(MOST_LINE_BYTES + 1):
                count += len(line)
                if len(line) > MOST_LINE_BYTES or count > most_bytes:
                    raise _unreadable(ident, "it unpacks to more than such a file may hold")
                yield line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _unreadable(ident, f"it is not gzip ({error})") from error


def _unreadable(ident: str, why: str) -> Verification:
    return Verification(
        f"the rows of the scores {ident[:64]!a} can't be read: {why}; make them again with: adapterctl eval"
    )


def _shown(row: RowScore) -> RowScore:
    return row.model_copy(update={name: _cut(getattr(row, name), MOST_SHOWN_TEXT) for name in _TEXTS})


def _cut(text: str | None, most: int) -> str | None:
    if text is None:
        return None
    # Half of a surrogate pair can't be sent as a character.
    text = text.encode(errors="replace").decode()
    return text if len(text) <= most else f"{text[: most - 1]}…"
