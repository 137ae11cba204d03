"""The 95 % interval of one score over rows, from sums that are added up in one pass, whatever the number of rows.

A share of rows that are 0 or 1 has the exact interval of Clopper and Pearson. Any other score is a ratio of sums, Σu/Σm
(m is 1 for each row, or its tokens), with the standard error of Miller, "Adding Error Bars to Evals" (arXiv 2411.00640),
√(n/(n−1) · Σ(u − R·m)²) / Σm, and Student's t. Each row counts as independent of the others.

>>> moments = Moments()
>>> for score in [0.0, 1.0] * 10:
...     moments.add(score)
>>> [round(end, 3) for end in moments.interval() or ()]  # 10 of 20
[0.272, 0.728]
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, sqrt

from sdk.statistics.binomial import share_interval

#: With fewer rows, an interval by Student's t of skewed scores means nothing.
LEAST_ROWS = 8
#: The 97.5 % quantile of the normal distribution.
_Z = 1.959963984540054


@dataclass(slots=True)
class Moments:
    """What rows with a score add up to."""

    rows: int = 0
    #: Over rows: Σu, Σm, Σu², Σum, Σm².
    sums: float = 0.0
    masses: float = 0.0
    squares: float = 0.0
    mixed: float = 0.0
    masses_squared: float = 0.0
    #: Whether every row is 0 or 1, and weighs 1.
    is_share: bool = True

    def add(self, total: float, mass: float = 1.0) -> None:
        """Add a row: its score, or the sum of it over its `mass` tokens."""
        self.rows += 1
        self.sums += total
        self.masses += mass
        self.squares += total * total
        self.mixed += total * mass
        self.masses_squared += mass * mass
        if self.is_share and (mass != 1.0 or (total != 0.0 and total != 1.0)):
            self.is_share = False

    def interval(self, *, largest: float | None = None) -> tuple[float, float] | None:
        """Return both ends, within 0 and the `largest` score if there is one; None if there are too few rows to tell."""
        if self.rows == 0 or self.masses <= 0:
            return None
        if self.is_share:
            return share_interval(round(self.sums), self.rows)
        if self.rows < LEAST_ROWS:
            return None
        ratio = self.sums / self.masses
        spread = self.squares - 2 * ratio * self.mixed + ratio * ratio * self.masses_squared
        error = sqrt(self.rows / (self.rows - 1) * max(0.0, spread)) / self.masses
        reach = _t(self.rows - 1) * error
        low, high = ratio - reach, ratio + reach
        if not (isfinite(low) and isfinite(high)):
            return None
        return (low, high) if largest is None else (max(0.0, low), min(largest, high))


def _t(freedom: int) -> float:
    """The 97.5 % quantile of Student's t (Abramowitz and Stegun 26.7.5), to a thousandth from 7 degrees of freedom on.

    >>> round(_t(7), 2), round(_t(1000), 3)
    (2.36, 1.962)
    """
    z = _Z
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return float(z + sum(term / freedom**power for power, term in enumerate(terms, 1)))
