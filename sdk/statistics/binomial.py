"""Exact intervals for the share of independent yes-or-no answers that are yes, and McNemar's test of pairs that differ.

>>> round(mcnemar_p(10, 2), 6)  # 2 · (1 + 12 + 66) / 2^12
0.038574
>>> [round(end, 4) for end in share_interval(0, 10)]  # 1 − 0.025^(1/10)
[0.0, 0.3085]
"""

from __future__ import annotations

from collections.abc import Callable
from math import hypot, log
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: Halvings of [0, 1] after which a share is known to the last digit of a double.
_HALVINGS = 60


def mcnemar_p(better: int, worse: int) -> float:
    """Return the two-sided p of `better` against `worse` among pairs that differ, if both were equally likely."""
    total = better + worse
    return min(1.0, 2.0 * _at_most(min(better, worse), total)(0.5))


def share_interval(yes: int, total: int, *, level: float = 0.95) -> tuple[float, float]:
    """Return the exact interval of a share (Clopper and Pearson 1934), which covers at least `level`."""
    tail = (1 - level) / 2
    low = 0.0 if yes == 0 else 1.0 - _where(_at_most(total - yes, total), tail)
    high = 1.0 if yes == total else _where(_at_most(yes, total), tail)
    return low, high


def equal_steps_interval(better: int, worse: int, total: int, *, level: float = 0.95) -> tuple[float, float]:
    """Return an interval of (better − worse)/total, where pairs differ by one step or not at all; never a single point.

    The difference is (2π − 1)·q: π is the share of `better` among pairs that differ, and q the share that differ. Both
    have an exact interval. The distances to the ends that follow from either are combined as the root of the sum of
    their squares (Newcombe 1998), but go no further than where both are at an end. The interval contains zero exactly
    if McNemar's test at 1 − `level` shows nothing.
    """
    differing = better + worse
    among_low, among_high = share_interval(differing, total, level=level)
    if not differing:
        return -among_high, among_high
    among, lead = differing / total, (better - worse) / differing
    lead_low, lead_high = (2 * share - 1 for share in share_interval(better, differing, level=level))
    found, ends = lead * among, sorted((lead * among_low, lead * among_high))
    low = found - hypot(found - lead_low * among, found - ends[0])
    high = found + hypot(lead_high * among - found, ends[1] - found)
    least = lead_low * (among_high if lead_low < 0 else among_low)
    most = lead_high * (among_low if lead_high < 0 else among_high)
    return max(low, least), min(high, most)


def _at_most(most: int, total: int) -> Callable[[float], float]:
    """P(at most `most` of `total`) as a function of the probability of one."""
    import numpy as np

    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, total + 1)))])
    counts: npt.NDArray[np.int64] = np.arange(most + 1)
    ways = factorials[total] - factorials[counts] - factorials[total - counts]

    def probability(share: float) -> float:
        if share <= 0.0 or share >= 1.0:
            return 1.0 if share <= 0.0 or most >= total else 0.0
        return float(np.exp(ways + counts * log(share) + (total - counts) * log(1.0 - share)).sum())

    return probability


def _where(falling: Callable[[float], float], value: float) -> float:
    """The argument between 0 and 1 at which a falling function has a value."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > value else (low, middle)
    return (low + high) / 2
