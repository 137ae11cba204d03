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

#: A sum counts as zero within this share of the sizes of its terms: thirds and tenths cancel out only nearly.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class PairedRatio:
    """A difference over rows, summed within clusters."""

    #: (clusters,) how much more the second scored in a cluster: Σ(b − a) over its rows, or for loss over its tokens.
    sums: Floats
    #: (clusters,) how many rows or tokens the cluster has.
    masses: Floats
    rows: int

    @property
    def clusters(self) -> int:
        """How many independent parts the rows fall into."""
        return len(self.sums)

    @property
    def difference(self) -> float:
        """Σu/Σm: the mean difference per row, or per token."""
        return float(self.sums.sum() / self.masses.sum())

    @property
    def residuals(self) -> Floats:
        """(clusters,) u − R·m, by which a cluster differs from all of them together; they sum to zero."""
        return self.sums - self.difference * self.masses

    @property
    def standard_error(self) -> float:
        """The standard error of the difference: that of paired differences, clustered, both as in Miller.

        √(G/(G−1) · Σ(u − R·m)²) / Σm over G clusters; with one row in each, it is that of a mean of paired differences.
        """
        count = self.clusters
        if count < 2:
            return float("inf")
        return sqrt(count / (count - 1) * float((self.residuals**2).sum())) / float(self.masses.sum())


def paired_ratio(sums: Floats, masses: Floats, *, groups: npt.NDArray[np.int64] | None = None) -> PairedRatio:
    """Add rows up within their groups.

    `sums` (rows,) is how much more the second scored in each row, `masses` (rows,) how much the row weighs (1, or its
    tokens), and `groups` (rows,) the number of its group, from 0; None: each row is a cluster of its own.
    """
    import numpy as np

    rows = len(sums)
    if groups is None:
        return PairedRatio(sums, masses, rows)
    u, m, sizes = (np.bincount(groups, weights=values).astype(np.float64) for values in (sums, masses, np.abs(sums)))
    # What would cancel out without rounding errors is no difference.
    u[np.abs(u) <= _ROUNDING * sizes] = 0.0
    return PairedRatio(u, m, rows)
