"""The paired difference over rows as a ratio of sums over clusters, with its standard error.

>>> import numpy as np
>>> found = paired_ratio(np.array([1.0, 0.0, 0.0, 1.0]), np.ones(4), groups=np.array([0, 0, 1, 1]))
>>> found.clusters, found.difference, found.standard_error
(2, 0.5, 0.0)
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

#: A sum is zero within this share of what it is made of: thirds and tenths add up to it only nearly.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class PairedRatio:
    """A difference over rows, summed within clusters."""

    #: (clusters,) what the second scored more in a cluster: Σ(b − a) over its rows, of loss over its tokens.
    sums: Floats
    #: (clusters,) how many rows or tokens that is.
    masses: Floats
    rows: int

    @property
    def clusters(self) -> int:
        """How many independent parts the rows fall into."""
        return len(self.sums)

    @property
    def difference(self) -> float:
        """Σu/Σm: the mean difference of a row, or of a token."""
        return float(self.sums.sum() / self.masses.sum())

    @property
    def residuals(self) -> Floats:
        """(clusters,) u − R·m, by which a cluster differs from what all together say; they sum to zero."""
        return self.sums - self.difference * self.masses

    @property
    def standard_error(self) -> float:
        """The standard error of the difference: clustered and of paired differences, as Miller has both.

        √(G/(G−1) · Σ(u − R·m)²) / Σm over G clusters; with one row a cluster it is that of a mean of paired differences.
        """
        count = self.clusters
        if count < 2:
            return float("inf")
        return sqrt(count / (count - 1) * float((self.residuals**2).sum())) / float(self.masses.sum())


def paired_ratio(sums: Floats, masses: Floats, *, groups: npt.NDArray[np.int64] | None = None) -> PairedRatio:
    """Add rows up within their groups.

    `sums` (rows,) is what the second scored more in each row, `masses` (rows,) what the row weighs (1, or its tokens),
    and `groups` (rows,) the number of its group, from 0; None: each row is a cluster of its own.
    """
    import numpy as np

    rows = len(sums)
    if groups is None:
        return PairedRatio(sums, masses, rows)
    u, m, sizes = (np.bincount(groups, weights=values).astype(np.float64) for values in (sums, masses, np.abs(sums)))
    # What cancels out but for rounding is no difference.
    u[np.abs(u) <= _ROUNDING * sizes] = 0.0
    return PairedRatio(u, m, rows)
