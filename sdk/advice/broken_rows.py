"""A run of rows that follow each other in a dataset, and whose losses are far above those of the others.

>>> losses = [1.0 + at % 7 / 10 for at in range(200)]
>>> losses[120:124] = [6.0, 7.0, 6.5, 8.0]
>>> found = run_of_rows(losses)
>>> found.first, found.last, round(found.loss, 3), round(found.usual, 1)
(120, 123, 6.875, 1.3)
>>> run_of_rows(losses[:120] + losses[124:]) is None
True
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: How many rows a run has that is looked for; a longer one is found by a part of it, and fewer are no run.
_LENGTHS = (3, 4, 5, 6, 7, 8, 16, 32, 64)
#: The largest share of all rows that it may be.
_MOST = 0.25
#: How likely rows in any order have such a run somewhere, at most; and how far above the median its lowest loss is, at least.
_CHANCE, _ABOVE = 1e-3, 1.3


class RowRun(NamedTuple):
    """Rows that follow each other, with numbers from 0, their mean loss, and the median of all."""

    first: int
    last: int
    loss: float
    usual: float


def run_of_rows(losses: Sequence[float] | npt.NDArray[np.floating[Any]]) -> RowRun | None:
    """Return the run of rows with high losses that is least by chance; None if there is none that is no chance.

    `losses` are (rows,) in the order of the dataset, NaN for those that are not known. If the order says nothing of the
    losses, L rows that follow each other are all among the k with the highest losses in one of n - L + 1 places with a chance
    of at most (n - L + 1)·C(k, L)/C(n, L), whatever their distribution is. It takes time in proportion to the rows.
    """
    import numpy as np

    known = np.asarray(losses, dtype=np.float64)
    usual = float(np.nanmedian(known)) if np.isfinite(known).any() else math.nan
    known = np.where(np.isnan(known), -math.inf, known)
    rows = len(known)
    ranks = np.empty(rows, dtype=np.int64)
    ranks[np.argsort(-known, kind="stable")] = np.arange(1, rows + 1)
    lengths = [length for length in _LENGTHS if length <= _MOST * rows]
    best, found = math.log(_CHANCE), None
    for length in lengths:
        lowest = _highest_ranks(ranks, length)
        at = int(lowest.argmin())
        chance = math.log(len(lengths) * len(lowest)) + _ways(int(lowest[at]), length) - _ways(rows, length)
        if chance < best and known[at : at + length].min() >= _ABOVE * usual > 0:
            best, found = chance, (at, at + length - 1)
    if found is None:
        return None
    first, last = found
    least = known[first : last + 1].min()
    while first > 0 and known[first - 1] >= least:
        first -= 1
    while last + 1 < rows and known[last + 1] >= least:
        last += 1
    return RowRun(first, last, float(known[first : last + 1].mean()), usual)


def _highest_ranks(ranks: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.int64]:
    """Return the highest rank of the rows from each one on, (rows - length + 1,): maxima of windows of half the length,
    joined.
    """
    import numpy as np

    if length == 1:
        return ranks
    half = (length + 1) // 2
    parts = _highest_ranks(ranks, half)
    starts = len(ranks) - length + 1
    return np.maximum(parts[:starts], parts[length - half : length - half + starts])


def _ways(of: int, some: int) -> float:
    """Return the logarithm of in how many ways `some` can be chosen."""
    return math.lgamma(of + 1) - math.lgamma(some + 1) - math.lgamma(of - some + 1)
