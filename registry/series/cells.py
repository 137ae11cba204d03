"""Arithmetic of buckets, a whole column at a time.

A cell is what is known of the values of one series at successive steps, a bucket of the answer; cells are in the order of
steps. A single value is a cell too. With numpy as `np`:

>>> import numpy as np
>>> cells = merged(cells_of(np.array([1, 2, 5]), np.array([4.0, 2.0, 9.0])), np.array([0, 0, 1]))
>>> [[cell[name].item() for name in ("first", "step", "count", "min", "max", "mean", "last")] for cell in cells]
[[1, 2, 2, 2.0, 4.0, 3.0, 2.0], [5, 5, 1, 9.0, 9.0, 9.0, 9.0]]
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array: TypeAlias = npt.NDArray[Any]

#: The largest number of a float32. A larger one is stored as this.
LARGEST = 3.4028234663852886e38
#: Digits with which most numbers that were written as decimals are found again in their float32.
_DIGITS = 7


@cache
def cell_type() -> np.dtype[Any]:
    """How a cell lies in memory, and in the database."""
    import numpy as np

    steps = [("first", "<u4"), ("step", "<u4"), ("count", "<u4")]
    # A mean is merged again and again.
    return np.dtype([*steps, ("min", "<f4"), ("max", "<f4"), ("last", "<f4"), ("mean", "<f8")])


def no_cells() -> Array:
    """No cell."""
    import numpy as np

    return np.empty(0, cell_type())


def cells_of(steps: Array, values: Array) -> Array:
    """A cell for each value (n) at its step (n)."""
    import numpy as np

    cells = np.empty(len(steps), cell_type())
    cells["first"] = cells["step"] = steps
    cells["count"] = 1
    for name in ("min", "max", "last", "mean"):
        cells[name] = values
    return cells


def merged(cells: Array, keys: Array) -> Array:
    """One cell for all neighbours with the same key (n)."""
    import numpy as np

    if len(cells) == 0:
        return cells
    begins = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
    if len(begins) == len(cells):
        return cells
    ends = np.append(begins[1:], len(cells)) - 1
    found = np.empty(len(begins), cell_type())
    found["first"], found["step"], found["last"] = cells["first"][begins], cells["step"][ends], cells["last"][ends]
    found["count"] = np.add.reduceat(cells["count"], begins)
    found["min"] = np.minimum.reduceat(cells["min"], begins)
    found["max"] = np.maximum.reduceat(cells["max"], begins)
    mean = np.add.reduceat(cells["mean"] * cells["count"], begins) / found["count"]
    found["mean"] = np.clip(mean, found["min"], found["max"])
    return found


def reduced(cells: Array, most: int) -> Array:
    """At most so many cells, each of about as many steps."""
    import numpy as np

    if len(cells) <= most:
        return cells
    first, past = int(cells["first"][0]), int(cells["step"][-1]) + 1
    return merged(cells, (cells["first"].astype(np.int64) - first) * most // (past - first))


def as_written(values: Array) -> Array:
    """Numbers that were rounded to float32 (n) as the shortest decimals that are rounded to them, if these are short."""
    import numpy as np

    found = values.astype(np.float64)
    small = (np.abs(found) < 10.0**_DIGITS) & (np.abs(found) > 1e-12)
    some = found[small]
    scale = 10.0 ** (_DIGITS - 1 - np.floor(np.log10(np.abs(some))))
    decimals = np.rint(some * scale) / scale
    found[small] = np.where(decimals.astype(np.float32) == some, decimals, some)
    return found
