"""Curves over one axis: the cells of several trainings in the same columns, computed from all points and never from a choice
of them.

A column is a range of the axis, which is in steps or in seconds of training. With numpy as `np`:

>>> import numpy as np
>>> from registry.series.cells import cells_of
>>> cells = cells_of(np.arange(1, 5), np.array([4.0, 2.0, 9.0, 1.0]))
>>> axis = Axis(1, 5, 2)
>>> found = axis.gathered(cells, step_places(cells))
>>> [each.tolist() for each in (found.columns, found.cells["min"], found.cells["max"], found.cells["mean"])]
[[0, 1], [2.0, 1.0], [4.0, 9.0], [3.0, 5.0]]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from registry.series.cells import merged

if TYPE_CHECKING:
    from registry.series.cells import Array


class InColumns(NamedTuple):
    """What one series has in the columns of an axis."""

    #: (n), rising: the columns in which it has a value.
    columns: Array
    #: (n): a cell for each of them.
    cells: Array


@dataclass(frozen=True)
class Axis:
    """From `low` on to before `past`, in so many columns of the same width."""

    low: float
    past: float
    columns: int

    def gathered(self, cells: Array, places: Array) -> InColumns:
        """What cells (n) at their places (n) on the axis, which rise, have in each column."""
        import numpy as np

        keys = ((places - self.low) * (self.columns / (self.past - self.low))).astype(np.int64)
        keys = np.clip(keys, 0, self.columns - 1)
        begins = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1]))) if len(keys) else keys
        return InColumns(keys[begins], merged(cells, keys))

    def middles(self) -> Array:
        """Where the middle of each column is (columns)."""
        import numpy as np

        width = (self.past - self.low) / self.columns
        return self.low + width * (np.arange(self.columns) + 0.5)


def step_places(cells: Array) -> Array:
    """Where cells (n) are on an axis of steps: in the middle of their own."""
    import numpy as np

    middles: Array = (cells["first"].astype(np.float64) + cells["step"]) / 2
    return middles


class Clock:
    """The seconds of training that had passed at each step, from those that each step took."""

    def __init__(self, seconds: Array) -> None:
        """Add up the cells (n) of the series of seconds."""
        import numpy as np

        self._steps = np.concatenate(([float(seconds["first"][0]) - 1], seconds["step"].astype(np.float64)))
        self._passed = np.concatenate(([0.0], np.cumsum(np.maximum(seconds["mean"], 0.0) * seconds["count"])))

    @property
    def whole_s(self) -> float:
        """How long it was, in seconds."""
        return float(self._passed[-1])

    def at(self, steps: Array) -> Array:
        """The seconds at steps (n)."""
        import numpy as np

        return np.interp(steps, self._steps, self._passed)


def coarser(fine: InColumns, group: int) -> InColumns:
    """The cells of so many columns each as one, which is in the one in the middle of those that have values."""
    import numpy as np

    keys = fine.columns // group
    if not len(keys):
        return fine
    begins = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
    ends = np.append(begins[1:], len(keys)) - 1
    return InColumns(fine.columns[(begins + ends) // 2], merged(fine.cells, keys))
