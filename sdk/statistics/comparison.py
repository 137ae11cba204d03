"""Whether the second of two models scores better on the same rows: the difference, its interval and its test.

Also what rows can show and how many are needed (power analysis in Miller, arXiv 2411.00640), and what several tests say.

>>> import numpy as np
>>> better, worse, same = np.ones(15), -np.ones(3), np.zeros(30)
>>> found = compare_rows(paired_ratio(np.concatenate([better, worse, same]), np.ones(48)), seed="a record's digest")
>>> found.difference, round(found.p, 4), found.test, found.clusters
(0.25, 0.0075, 'mcnemar', 48)
>>> round(least_difference(0.01), 4)  # (1.96 + 0.84) · 0.01
0.028
>>> rows_needed(48, 0.01, 0.014)  # half the difference takes four times the rows
193
>>> holm([0.01, 0.04, 0.03])
[0.03, 0.06, 0.06]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from math import ceil, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal

from sdk.statistics.binomial import equal_steps_interval, mcnemar_p
from sdk.statistics.bootstrap import PairedRatio, paired_ratio, sign_flip_p, studentised_interval
from sdk.statistics.bounded import bounded_mean_interval

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]


__all__ = ["ALPHA", "LEAST_CLUSTERS", "RowsComparison", "compare_rows", "paired_ratio"]

#: How often two models that are equally good may be found to differ.
ALPHA = 0.05
#: With fewer clusters neither an interval nor a test keeps its guarantee.
LEAST_CLUSTERS = 20
#: Where fewer clusters differ, a bootstrap does not know enough of how they differ.
LEAST_DIFFERING = 20
#: Differences within this share of each other count as equal in size: subtracting scores leaves rounding errors.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class RowsComparison:
    """What the rows that both models were scored on say."""

    #: How much more the second model scored, on average over rows or tokens.
    difference: float
    standard_error: float
    rows: int
    #: The number of groups, or of rows if there are no groups.
    clusters: int
    #: The number of clusters that score differently.
    differing: int
    #: Ends of the 95 % interval of the difference; None for too few clusters, or if no row differs and it isn't known
    #: by how much one could.
    low: float | None = None
    high: float | None = None
    #: Whether the interval may hold the true difference less often than 95 %, because few clusters differ and nothing
    #: tells by how much others could.
    approximate: bool = False
    #: Whether zero lies within what the test's interval leaves open: the one of equal steps, or else the bootstrap's.
    holds_zero: bool = True
    #: Two-sided; None for too few clusters.
    p: float | None = None
    #: None for too few clusters.
    test: Literal["sign-flip", "mcnemar"] | None = None

    def better(self, p: float | None = None, *, alpha: float = ALPHA) -> int:
        """Return 1 if the second is shown to score more, -1 if the first is, and 0 if neither is.

        The test decides, by its own p or by one that was adjusted for several tests. If its interval contains zero,
        neither model is better. An interval that holds for whatever scores within their bounds may contain zero all
        the same: the test supposes that equal models' differences have either sign as often.
        """
        p = self.p if p is None else p
        if p is None or p >= alpha or self.holds_zero:
            return 0
        return 1 if self.difference > 0 else -1


def compare_rows(
    found: PairedRatio, *, seed: str, step: float | None = None, bound: float | None = None
) -> RowsComparison:
    """Compare two models by how much more the second scored in each cluster.

    The same `seed` gives the same answer, and swapping the models gives its mirror image. `bound` is the most by which
    one row can differ, if scores have bounds; `step` is the same if scores are yes or no. If all clusters that differ do
    so by the same amount, the test is McNemar's, which is exact; if all clusters also weigh the same, the interval is
    made of exact binomial ones. If fewer than `LEAST_DIFFERING` clusters differ, scores other than yes or no have an
    interval by their bound, and scores without bounds an approximate one.
    """
    import numpy as np

    differing = int(np.count_nonzero(found.sums))
    result = RowsComparison(found.difference, found.standard_error, found.rows, found.clusters, differing)
    if found.clusters < LEAST_CLUSTERS:
        return result
    result, exact = _tested(found, result, seed, step)
    if exact or differing >= LEAST_DIFFERING:
        return result
    most = bound if step is None else step
    if most is None:
        return replace(result, approximate=result.low is not None)
    # How much a cluster can differ by is known from how much it weighs; the heaviest could.
    one = most * float(found.masses.max())
    low, high = bounded_mean_interval(found.sums[found.sums != 0.0] / one, found.clusters)
    mean = float(found.masses.mean())
    return replace(result, low=max(-most, low * one / mean), high=min(most, high * one / mean))


def _tested(found: PairedRatio, result: RowsComparison, seed: str, step: float | None) -> tuple[RowsComparison, bool]:
    """The test, with the interval that belongs to it, and whether that is exact for scores of yes or no."""
    import numpy as np

    sizes = np.abs(found.sums[found.sums != 0.0])
    rng = np.random.default_rng(int.from_bytes(sha256(seed.encode()).digest()))
    if len(sizes) == 0:
        return _equal(found, result, step), step is not None
    if not _are_equal(sizes):
        ends = studentised_interval(found, rng)
        return _with(result, ends, p=sign_flip_p(found.sums, rng), test="sign-flip"), False
    better, worse = int((found.sums > 0).sum()), int((found.sums < 0).sum())
    p = mcnemar_p(better, worse)
    if not _are_equal(found.masses):
        # How many clusters differ says nothing about how much these weigh.
        return _with(result, studentised_interval(found, rng), p=p, test="mcnemar"), False
    one = float(sizes[0] / found.masses[0])
    low, high = equal_steps_interval(better, worse, found.clusters)
    return _with(result, (one * low, one * high), p=p, test="mcnemar"), step is not None


def _with(
    result: RowsComparison, ends: tuple[float, float], *, p: float, test: Literal["sign-flip", "mcnemar"]
) -> RowsComparison:
    low, high = ends
    return replace(result, low=low, high=high, p=p, test=test, holds_zero=low <= 0 <= high)


def _equal(found: PairedRatio, result: RowsComparison, step: float | None) -> RowsComparison:
    """The answer for rows that all score the same: how often others could differ, by `step` at most."""
    result = replace(result, p=1.0, test="mcnemar")
    if step is None:
        return result
    # The clusters that differ could be the heaviest.
    heaviest = float(found.masses.max()) * found.clusters / float(found.masses.sum())
    low, high = equal_steps_interval(0, 0, found.clusters)
    return replace(result, low=step * max(-1.0, heaviest * low), high=step * min(1.0, heaviest * high))


def _are_equal(sizes: Floats) -> bool:
    return bool((abs(sizes - sizes[0]) <= _ROUNDING * abs(sizes[0])).all())


#: How often a true difference of the given size is to be shown.
POWER = 0.8
#: More rows than any dataset has: if more than these are needed, the difference counts as zero.
MOST_ROWS = 10**12


def least_difference(standard_error: float, *, alpha: float = 0.05, power: float = POWER) -> float:
    """Return the smallest difference that these rows show in `power` of all cases: (z(1−α/2) + z(power)) · se.

    This is Miller's minimum detectable effect, with the standard error that was found: that of the paired differences,
    clustered.
    """
    normal = NormalDist()
    return (normal.inv_cdf(1 - alpha / 2) + normal.inv_cdf(power)) * standard_error


def rows_needed(
    rows: int, standard_error: float, difference: float, *, alpha: float = 0.05, power: float = POWER
) -> int | None:
    """Return how many rows like these show a `difference` in `power` of all cases: n · (δ_least / δ)².

    This is Miller's sample size; None for more than `MOST_ROWS`.
    """
    least = least_difference(standard_error, alpha=alpha, power=power)
    # With a tiny difference the square would overflow.
    if least > difference * sqrt(MOST_ROWS / rows):
        return None
    return ceil(rows * (least / difference) ** 2)


def holm(values: Sequence[float]) -> list[float]:
    """Return each p adjusted for several tests (Holm 1979): of those that are now below α, the probability that any is
    wrong is at most α.
    """
    adjusted = [0.0] * len(values)
    highest = 0.0
    for place, index in enumerate(sorted(range(len(values)), key=lambda index: values[index])):
        highest = max(highest, min(1.0, (len(values) - place) * values[index]))
        adjusted[index] = highest
    return adjusted
