"""Bytes of the database for points and buckets, and what becomes of old points.

The newest `EXACT` values of each series are kept one by one. Of the older ones there are at most `MOST_BUCKETS` buckets:
each has the values of 2^level successive steps, from a multiple of that on, so that those of several series lie within
each other. If there are too many, the level rises, and pairs are merged.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.series.cells import LARGEST, cell_type, cells_of, merged, no_cells
from sdk.schemas.series import Point

if TYPE_CHECKING:
    from registry.series.cells import Array

#: How many values of a series are kept one by one, and how many buckets of older ones.
EXACT, MOST_BUCKETS = 2_000, 256
#: The most points of a block. The newest block is written again with each chunk.
BLOCK = 250

_STEP, _VALUE = "<u4", "<f4"


@dataclass(frozen=True)
class Points:
    """Points of successive steps, column by column."""

    #: (n), rising.
    steps: Array
    #: By series: (n), NaN at the steps at which it has no value.
    columns: dict[str, Array]

    @classmethod
    def of(cls, points: Sequence[Point]) -> Points:
        """The points of a chunk."""
        import numpy as np

        columns: dict[str, Array] = {}
        for row, point in enumerate(points):
            for name, value in point.values.items():
                if name not in columns:
                    columns[name] = np.full(len(points), np.nan, _VALUE)
                columns[name][row] = min(LARGEST, max(-LARGEST, value))
        return cls(np.array([point.step for point in points], _STEP), columns)

    @classmethod
    def unpacked(cls, points: int, names: Mapping[str, int], data: bytes) -> Points:
        """The points of a block."""
        import numpy as np

        steps = np.frombuffer(data, _STEP, points)
        values = np.frombuffer(data, _VALUE, points * len(names), steps.nbytes).reshape(len(names), points)
        return cls(steps, dict(zip(names, values, strict=True)))

    def packed(self) -> bytes:
        """The bytes of a block."""
        return b"".join(column.tobytes() for column in (self.steps, *self.columns.values()))

    def names(self) -> dict[str, int]:
        """How many values each series has."""
        import numpy as np

        return {name: int(np.count_nonzero(~np.isnan(column))) for name, column in self.columns.items()}

    def part(self, begin: int, end: int | None = None) -> Points:
        """The points from one place on to before another, without the series that have no value there."""
        import numpy as np

        columns = {name: column[begin:end] for name, column in self.columns.items()}
        return Points(self.steps[begin:end], {name: each for name, each in columns.items() if not np.isnan(each).all()})

    def until(self, step: int) -> Points:
        """The points of the steps until this one."""
        import numpy as np

        return self.part(0, int(np.searchsorted(self.steps, step, "right")))

    def only(self, keys: Container[str] | None) -> Points:
        """The series with these names; None: all."""
        return Points(self.steps, {name: self.columns[name] for name in self.columns if keys is None or name in keys})

    def cells(self) -> dict[str, Array]:
        """The cells of each series."""
        import numpy as np

        there = {name: ~np.isnan(column) for name, column in self.columns.items()}
        return {name: cells_of(self.steps[there[name]], column[there[name]]) for name, column in self.columns.items()}


@dataclass(frozen=True)
class Folded:
    """What is kept of the points that are older than all blocks."""

    #: By series: its cells, of which the last ones may be single values.
    cells: dict[str, Array]
    #: By series: the level of its buckets.
    levels: dict[str, int]

    @classmethod
    def unpacked(cls, names: Mapping[str, Sequence[int]], data: bytes) -> Folded:
        """What a block has."""
        import numpy as np

        cells, at = {}, 0
        for name, (_, buckets, singles) in names.items():
            merged_cells = np.frombuffer(data, cell_type(), buckets, at)
            at += merged_cells.nbytes
            steps = np.frombuffer(data, _STEP, singles, at)
            values = np.frombuffer(data, _VALUE, singles, at + steps.nbytes)
            at += steps.nbytes + values.nbytes
            cells[name] = np.concatenate((merged_cells, cells_of(steps, values)))
        return cls(cells, {name: level for name, (level, _, _) in names.items()})

    def packed(self) -> tuple[dict[str, list[int]], bytes]:
        """Level, number of buckets and number of single values of each series, and the bytes."""
        names, parts = {}, []
        for name, cells in self.cells.items():
            buckets = _last_bucket(cells)
            singles = cells[buckets:]
            names[name] = [self.levels.get(name, 0), buckets, len(singles)]
            parts += [cells[:buckets].tobytes(), singles["step"].tobytes(), singles["last"].tobytes()]
        return names, b"".join(parts)

    @property
    def first_step(self) -> int:
        """The step of the oldest value."""
        return min(int(cells["first"][0]) for cells in self.cells.values())

    @property
    def last_step(self) -> int:
        """The step of the newest value."""
        return max(int(cells["step"][-1]) for cells in self.cells.values())

    def until(self, step: int) -> tuple[Folded, int]:
        """What has only values of the steps until this one, or until an earlier one if a bucket has later ones too; and
        until which.
        """
        while begins := [
            int(cells["first"][across][0])
            for cells in self.cells.values()
            if (across := (cells["first"] <= step) & (cells["step"] > step)).any()
        ]:
            step = min(begins) - 1
        kept = {name: cells[cells["step"] <= step] for name, cells in self.cells.items()}
        return Folded({name: cells for name, cells in kept.items() if len(cells)}, self.levels), step

    def then(self, old: Points, newer: Mapping[str, int]) -> Folded:
        """This and the points of later steps; `newer` says how many values of each series are in blocks after these."""
        import numpy as np

        cells, levels = dict(self.cells), dict(self.levels)
        for name, more in old.cells().items():
            cells[name] = np.concatenate((cells.get(name, no_cells()), more))
        for name in cells:
            cells[name], levels[name] = _bounded(cells[name], levels.get(name, 0), EXACT - newer.get(name, 0))
        return Folded(cells, levels)


def _last_bucket(cells: Array) -> int:
    """After how many cells there are only single values."""
    import numpy as np

    several = np.flatnonzero(cells["count"] > 1)
    return int(several[-1]) + 1 if len(several) else 0


def _bounded(cells: Array, level: int, exact: int) -> tuple[Array, int]:
    """The cells of a series with few buckets and so many single values at their end; and the level of the buckets."""
    import numpy as np

    singles = min(len(cells) - _last_bucket(cells), max(0, exact))
    old, new = cells[: len(cells) - singles], cells[len(cells) - singles :]
    old = merged(old, old["first"] >> level)
    while len(old) > MOST_BUCKETS:
        level += 1
        old = merged(old, old["first"] >> level)
    return np.concatenate((old, new)), level


def joined(blocks: Sequence[Points]) -> Points:
    """The points of successive blocks."""
    import numpy as np

    def column(points: Points, name: str) -> Array:
        found = points.columns.get(name)
        return np.full(len(points.steps), np.nan, _VALUE) if found is None else found

    names = dict.fromkeys(name for points in blocks for name in points.columns)
    return Points(
        np.concatenate([points.steps for points in blocks]),
        {name: np.concatenate([column(points, name) for points in blocks]) for name in names},
    )


def cells_by_name(parts: Sequence[Mapping[str, Any]]) -> dict[str, Array]:
    """The cells of each series, from those of successive parts."""
    import numpy as np

    found: dict[str, list[Array]] = {}
    for part in parts:
        for name, cells in part.items():
            found.setdefault(name, []).append(cells)
    return {name: np.concatenate(cells) for name, cells in found.items()}
