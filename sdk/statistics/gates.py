"""Whether a score is at least what is asked, or not worse than another's by more than a margin, with confidence 1 − α.

One-sided: a rule promises that what misses its limit gets through in α of all samples of rows at most, and says nothing of
the other side. `near` is the interval's end that decides: the lower one of a score that must be at least something, the
upper one of a score that must be at most something, and the upper one of how much worse it is.

>>> import numpy as np
>>> from sdk.statistics.bootstrap import paired_ratio
>>> right = paired_ratio(np.repeat([1.0, 0.0], [90, 10]), np.ones(100))
>>> found = judge_score(right, Limit("at_least", 0.8), alpha=0.05, seed="", largest=1.0)
>>> found.outcome, found.value, round(found.near, 3), found.method
('passed', 0.9, 0.836, 'exact')
>>> judge_score(right, Limit("at_least", 0.85), alpha=0.05, seed="", largest=1.0).outcome
'failed'
>>> round(tried_alpha(0.05, 10) / tried_alpha(0.05, 1), 3)
0.01
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, pi
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal

from sdk.statistics.bootstrap import PairedRatio
from sdk.statistics.comparison import LEAST_CLUSTERS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

#: What a rule found.
Outcome = Literal["passed", "failed", "unknown"]
#: What is asked of a score.
Asked = Literal["at_least", "at_most", "not_worse_than"]
#: How the near end was found: the score itself; exactly, by the binomial distribution; by the scores' bounds, whatever their
#: distribution; from the rows' own distribution.
Method = Literal["point", "exact", "bounds", "rows"]


@dataclass(frozen=True)
class Limit:
    """What is asked of a score."""

    asked: Asked
    #: In the unit of the score; for "not_worse_than" the margin, 0 or more.
    value: float
    #: Whether the score itself decides, in place of its near end.
    point: bool = False
    #: For "not_worse_than": which of the targets it is compared with; the first is the one that is judged.
    target: int = 1


@dataclass(frozen=True)
class Judged:
    """What the rows say to one limit."""

    outcome: Outcome
    #: The score, or by how much it is worse than the other's; below 0: it is better.
    value: float
    #: The limit: a score, or a margin.
    limit: float
    #: The interval's end that decides; None: it is not known, or the score itself decides.
    near: float | None
    #: The confidence was 1 − this.
    alpha: float
    rows: int
    #: How many parts count once: rows, or groups of rows that belong together.
    clusters: int
    #: How many of them differ from the other's, or from the score that most have.
    differing: int
    method: Method | None
    #: Why it is unknown, in a sentence that ends with what to do.
    why: str | None = None

    def numbers(self) -> dict[str, float]:
        """What is known, by name."""
        raise NotImplementedError


@dataclass(frozen=True)
class JudgedSlices:
    """What the rows say to one limit in each group of rows with the same value in a column."""

    #: The value whose near end is worst for the limit, and what was found there; None: no group has enough rows.
    value: str | None
    worst: Judged | None
    #: How many groups were judged, each with α ÷ this.
    judged: int
    #: Values with too few rows to be judged, the largest first.
    few: list[str]


@dataclass(frozen=True)
class JudgedLimit:
    """What the rows say to one limit, all together and by group."""

    whole: Judged
    #: None: no column was asked for.
    slices: JudgedSlices | None = None

    @property
    def outcome(self) -> Outcome:
        """Failed if any part failed; passed if all did."""
        raise NotImplementedError


def tried_alpha(alpha: float, tries: int) -> float:
    """Return the α of the `tries`th version that is judged on the same rows: α·6/(π²k²), which sums to α over all k."""
    if tries < 1:
        raise ValueError(f"the first version is number 1, and there is no number {tries!r}")
    return alpha * 6 / (pi * tries) ** 2


def rows_for(alpha: float, *, margin: float = 0.5, deviation: float = 1.0, power: float = 0.8) -> int:
    """Return with how many rows an equal version is not worse by `margin` in `power` of all samples, where the rows'
    differences have this standard deviation: ((z(1−α) + z(power))·σ/margin)², as in Miller, and `LEAST_CLUSTERS` at least.
    """
    if not margin > 0 or not deviation > 0:
        raise ValueError("no number of rows shows that a version is not worse by nothing; give a margin above 0")
    normal = NormalDist()
    return max(LEAST_CLUSTERS, ceil(((normal.inv_cdf(power) - normal.inv_cdf(alpha)) * deviation / margin) ** 2))


def judge_score(found: PairedRatio, limit: Limit, *, alpha: float, seed: str, largest: float | None = None) -> Judged:
    """Judge a score (Σu/Σm of rows or clusters) by "at_least" or "at_most"; `largest` is a row's largest score, if the least
    is 0.
    """
    raise NotImplementedError


def judge_not_worse(
    found: PairedRatio,
    limit: Limit,
    *,
    alpha: float,
    seed: str,
    lower_is_better: bool,
    step: float | None = None,
    largest: float | None = None,
) -> Judged:
    """Judge by "not_worse_than"; `found` is how much more the judged version scored than the other in each cluster.

    `step` is by how much a row differs if scores are yes or no.
    """
    raise NotImplementedError


def judge_slices(values: Sequence[str], judged: Sequence[Judged], few: Sequence[str]) -> JudgedSlices:
    """Put together what was found in each group, each judged with α ÷ their number."""
    raise NotImplementedError
