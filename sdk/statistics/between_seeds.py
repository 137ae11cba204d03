"""How much trainings vary that differ in nothing but the seed.

A setting has too few trainings to tell how much they vary, so that all settings are taken together. A setting that diverges
with some seeds would make all others look as uncertain: the one whose variance stands out is set aside (Cochran's test,
as in ISO 5725-2), and counts with its own.

>>> import numpy as np
>>> steady = [np.array([1.0, 1.01, 0.99]), np.array([1.1, 1.1, 1.12]), np.array([1.3, 1.29, 1.3])]
>>> found = between_seeds([*steady, np.array([2.0, 5.0, 9.0])], seed="a sweep")
>>> round(found.deviation, 4), found.freedom, found.set_aside
(0.0094, 6, [3])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

#: How often a setting is set aside though all vary alike.
_ALPHA = 0.01
#: With fewer degrees of freedom left, the others don't tell how much is usual.
_LEAST_LEFT = 4
_DRAWS = 1_000


@dataclass(frozen=True)
class BetweenSeeds:
    """The standard deviation between trainings of one setting, over those that aren't set aside."""

    #: None, with 0 degrees of freedom: no setting has two trainings.
    deviation: float | None
    freedom: int
    #: Places of settings with a deviation of their own.
    set_aside: list[int]


def between_seeds(scores: Sequence[Floats], *, seed: str) -> BetweenSeeds:
    """Pool the variance of each setting's scores, (seeds,), over settings."""
    squares = [float(((one - one.mean()) ** 2).sum()) if len(one) else 0.0 for one in scores]
    freedoms = [max(0, len(one) - 1) for one in scores]
    left, set_aside = [place for place, freedom in enumerate(freedoms) if freedom], []
    while left:
        widest = max(left, key=lambda place: squares[place] / freedoms[place])
        others = [place for place in left if place != widest]
        if sum(freedoms[place] for place in others) < _LEAST_LEFT or not sum(squares[place] for place in others):
            break
        if not _stands_out([squares[place] for place in left], [freedoms[place] for place in left], seed):
            break
        left = others
        set_aside.append(widest)
    freedom = sum(freedoms[place] for place in left)
    deviation = sqrt(sum(squares[place] for place in left) / freedom) if freedom else None
    return BetweenSeeds(deviation, freedom, sorted(set_aside))


def _stands_out(squares: Sequence[float], freedoms: Sequence[int], seed: str) -> bool:
    """Whether the largest variance is a larger multiple of the mean one than chance makes of equal ones."""
    import numpy as np

    rng = np.random.default_rng(int.from_bytes(sha256(seed.encode()).digest()))
    drawn = rng.chisquare(freedoms, size=(_DRAWS, len(freedoms)))
    by_chance = np.sort((drawn / freedoms).max(axis=1) / drawn.sum(axis=1))
    found = max(one / freedom for one, freedom in zip(squares, freedoms, strict=True)) / sum(squares)
    return bool(found > by_chance[-int(_ALPHA * _DRAWS)])
