"""Whether the second of two models scores better on the same rows: the difference, its interval and its test.

>>> import numpy as np
>>> better, worse, same = np.ones(15), -np.ones(3), np.zeros(30)
>>> found = compare_rows(paired_ratio(np.concatenate([better, worse, same]), np.ones(48)), seed="a record's digest")
>>> found.difference, round(found.p, 4), found.test, found.clusters
(0.25, 0.0075, 'mcnemar', 48)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Literal

from sdk.statistics.binomial import equal_steps_interval, mcnemar_p
from sdk.statistics.bootstrap import studentised_interval
from sdk.statistics.ratios import PairedRatio, paired_ratio
from sdk.statistics.sign_flips import sign_flip_p

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

__all__ = ["ALPHA", "LEAST_CLUSTERS", "RowsComparison", "compare_rows", "paired_ratio"]

#: How often two models that are alike may be told apart.
ALPHA = 0.05
#: With fewer clusters neither an interval nor a test keeps its guarantee.
LEAST_CLUSTERS = 20
#: Differences are equal in size if they are within this share: they were subtracted from different scores.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class RowsComparison:
    """What rows that both were scored on say."""

    #: Mean of what the second scored more, a row or a token.
    difference: float
    standard_error: float
    rows: int
    #: The number of groups, or of rows if there are no groups.
    clusters: int
    #: Ends of the 95 % interval of the difference; None of too few clusters, or where no row differs and nothing
    #: says by how much one could.
    low: float | None = None
    high: float | None = None
    #: Two-sided; None for too few clusters.
    p: float | None = None
    #: None of too few clusters.
    test: Literal["sign-flip", "mcnemar"] | None = None

    def better(self, p: float | None = None, *, alpha: float = ALPHA) -> int:
        """Return 1 if the second is shown to score more, -1 if the first is, and 0 if neither is.

        The test decides, by its own p or by one that was adjusted for several; an interval that holds zero objects.
        """
        p = self.p if p is None else p
        if p is None or p >= alpha or self.low is None or self.high is None or self.low <= 0 <= self.high:
            return 0
        return 1 if self.difference > 0 else -1


def compare_rows(found: PairedRatio, *, seed: str, step: float | None = None) -> RowsComparison:
    """Compare two models by what the second scored more in each cluster.

    The same `seed` gives the same answer, and the other order of both models its mirror image. `step` is the most by
    which one row can differ, where the scores are yes or no. Where all clusters that differ do so by as much, the test
    is exact, McNemar's; and so is the interval, of binomial ones, where also all weigh as much.
    """
    import numpy as np

    result = RowsComparison(found.difference, found.standard_error, found.rows, found.clusters)
    if found.clusters < LEAST_CLUSTERS:
        return result
    sizes = np.abs(found.sums[found.sums != 0.0])
    rng = np.random.default_rng(int.from_bytes(sha256(seed.encode()).digest()))
    if len(sizes) == 0:
        return _equal(found, result, step)
    if not _are_equal(sizes):
        low, high = studentised_interval(found, rng)
        return replace(result, low=low, high=high, p=sign_flip_p(found.sums, rng), test="sign-flip")
    better, worse = int((found.sums > 0).sum()), int((found.sums < 0).sum())
    result = replace(result, p=mcnemar_p(better, worse), test="mcnemar")
    if not _are_equal(found.masses):
        # How often clusters differ says nothing of how much those weigh that do.
        low, high = studentised_interval(found, rng)
        return replace(result, low=low, high=high)
    one = float(sizes[0] / found.masses[0])
    low, high = equal_steps_interval(better, worse, found.clusters)
    return replace(result, low=one * low, high=one * high)


def _equal(found: PairedRatio, result: RowsComparison, step: float | None) -> RowsComparison:
    """What is said of rows that score the same: how often others could differ, and by `step` at most."""
    result = replace(result, p=1.0, test="mcnemar")
    if step is None:
        return result
    # Those that differ may be the heaviest.
    heaviest = float(found.masses.max()) * found.clusters / float(found.masses.sum())
    low, high = equal_steps_interval(0, 0, found.clusters)
    return replace(result, low=step * max(-1.0, heaviest * low), high=step * min(1.0, heaviest * high))


def _are_equal(sizes: Floats) -> bool:
    return bool((abs(sizes - sizes[0]) <= _ROUNDING * abs(sizes[0])).all())
