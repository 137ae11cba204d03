"""Whether a score is at least what is asked, or not worse than another's by more than a margin, with confidence 1 − α.

One-sided: a rule promises that what misses its limit gets through in α of all samples of rows at most, and says nothing of
the other side. `near` is the interval's end that decides: the lower one of a score that must be at least something, the
upper one of a score that must be at most something, and the upper one of how much worse it is.

>>> import numpy as np
>>> from sdk.statistics.bootstrap import paired_ratio
>>> right = paired_ratio(np.repeat([1.0, 0.0], [90, 10]), np.ones(100))
>>> found = judge_score(right, ScoreLimit("at_least", 0.8), alpha=0.05, largest=1.0)
>>> found.outcome, found.value, round(found.near, 3), found.method
('passed', 0.9, 0.836, 'exact')
>>> judge_score(right, ScoreLimit("at_least", 0.85), alpha=0.05, largest=1.0).outcome
'failed'
>>> round(tried_alpha(0.05, 10) / tried_alpha(0.05, 1), 3)
0.01
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, isfinite, pi
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal

from sdk.statistics.binomial import share_interval
from sdk.statistics.bootstrap import PairedRatio
from sdk.statistics.bounded import most_of_share
from sdk.statistics.comparison import LEAST_CLUSTERS, LEAST_DIFFERING
from sdk.statistics.one_sided import most_of_ratio
from sdk.statistics.paired_shares import most_worse

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

#: How many groups with too few rows are named.
MOST_NAMED = 20
#: What a rule found.
Outcome = Literal["passed", "failed", "unknown"]
#: What is asked of a score.
Asked = Literal["at_least", "at_most", "not_worse_than"]
#: How the near end was found: the score itself; exactly, by the binomial distribution; by the scores' bounds, whatever their
#: distribution; from the rows' own distribution.
Method = Literal["point", "exact", "bounds", "rows"]


@dataclass(frozen=True)
class ScoreLimit:
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
        named = {"value": self.value, "limit": self.limit, "near": self.near, "alpha": self.alpha}
        counts = {"rows": self.rows, "clusters": self.clusters, "differing": self.differing}
        return {name: value for name, value in (named | counts).items() if value is not None and isfinite(value)}


@dataclass(frozen=True)
class JudgedSlices:
    """What the rows say to one limit in each group of rows with the same value in a column."""

    #: The value whose near end is worst for the limit, and what was found there; None: no group has enough rows.
    value: str | None
    worst: Judged | None
    #: How many groups were judged, each with α ÷ this.
    judged: int
    #: Values with too few rows to be judged, the largest first, but no more than `MOST_NAMED`; and how many there are.
    few: list[str]
    too_few: int


@dataclass(frozen=True)
class JudgedLimit:
    """What the rows say to one limit, all together and by group."""

    whole: Judged
    #: None: no column was asked for.
    slices: JudgedSlices | None = None

    @property
    def outcome(self) -> Outcome:
        """Failed if any part failed, then unknown if any is; with a column of which no group is large enough, unknown."""
        if self.slices is None:
            return self.whole.outcome
        parts = {self.whole.outcome, "unknown" if self.slices.worst is None else self.slices.worst.outcome}
        return "failed" if "failed" in parts else "unknown" if "unknown" in parts else "passed"


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


def judge_score(
    found: PairedRatio, limit: ScoreLimit, *, alpha: float, largest: float | None = None, yes_or_no: bool = True
) -> Judged:
    """Judge a score (Σu/Σm of rows or clusters) by "at_least" or "at_most"; `largest` is a row's largest score, if the least
    is 0. Unless they may be `yes_or_no`, scores of 0 and 1 alone are no proof that there are no others. Raises ValueError for
    another limit, or an α that is none.
    """
    if limit.asked == "not_worse_than":
        raise ValueError("a score by itself is at least or at most something; judge_not_worse compares two")
    _check(alpha)
    least = limit.asked == "at_least"
    varying = _varying(found)
    judged = _Judging(found, limit, alpha, found.difference, varying, turned=-1.0 if least else 1.0)
    if limit.point:
        return judged.by(found.difference, "point")
    if why := judged.unknown():
        return judged.without(why)
    if yes_or_no and _is_yes_or_no(found, largest):
        low, high = share_interval(round(float(found.sums.sum())), found.rows, level=1 - 2 * alpha)
        return judged.by(low if least else high, "exact")
    if varying >= LEAST_DIFFERING:
        return judged.by_rows()
    if largest is None:
        return judged.without(_few(varying, found, "score otherwise than most"))
    # How far each cluster is from what would be best, as a share of the most that the heaviest can be.
    far = largest * found.masses - found.sums if least else found.sums
    one = largest * float(found.masses.max())
    most = most_of_share(far / one, alpha=alpha) * one / float(found.masses.mean())
    return judged.by(max(0.0, largest - most) if least else min(largest, most), "bounds")


def judge_not_worse(
    found: PairedRatio,
    limit: ScoreLimit,
    *,
    alpha: float,
    lower_is_better: bool,
    step: float | None = None,
    largest: float | None = None,
) -> Judged:
    """Judge by "not_worse_than"; `found` is how much more the judged version scored than the other in each cluster.

    `step` is by how much a row differs if scores are yes or no; `largest` is a row's largest score, if the least is 0. Raises
    ValueError for another limit, a margin below 0, or an α that is none.
    """
    if limit.asked != "not_worse_than":
        raise ValueError("not_worse_than compares two; judge_score judges a score by itself")
    if limit.value < 0:
        raise ValueError(f"a margin is 0 or more, and {limit.value!r} is not")
    _check(alpha)
    worse = found if lower_is_better else PairedRatio(-found.sums, found.masses, found.rows)
    varying = _varying(worse)
    judged = _Judging(worse, limit, alpha, worse.difference, varying, turned=1.0)
    if why := judged.unknown():
        return judged.without(why)
    if step is not None and found.clusters == found.rows:
        counts = int((worse.sums > 0).sum()), int((worse.sums < 0).sum())
        return judged.by(step * most_worse(*counts, found.rows, alpha=alpha), "exact")
    if varying >= LEAST_DIFFERING:
        return judged.by_rows()
    bound = largest if step is None else step
    if bound is None:
        return judged.without(_few(varying, found, "differ"))
    one = bound * float(found.masses.max())
    # From [-1, 1] to [0, 1], and back.
    share = most_of_share((worse.sums / one + 1) / 2, alpha=alpha)
    return judged.by(min(bound, (2 * share - 1) * one / float(found.masses.mean())), "bounds")


@dataclass(frozen=True)
class _Judging:
    """A question, turned so that less is better: by -1 where a score must be at least something."""

    found: PairedRatio
    limit: ScoreLimit
    alpha: float
    value: float
    varying: int
    turned: float

    def unknown(self) -> str | None:
        """Why nothing can be told of these rows, whatever they are."""
        if not isfinite(self.value):
            return "a row's score is not a finite number; score the version again"
        if self.found.clusters >= LEAST_CLUSTERS:
            return None
        what = "rows" if self.found.clusters == self.found.rows else "groups of rows that belong together"
        return f"{self.found.clusters} {what} are too few of at least {LEAST_CLUSTERS}; take a dataset with more"

    def by_rows(self) -> Judged:
        end = most_of_ratio(self.turned * self.found.sums, self.found.masses, alpha=self.alpha)
        return self.by(self.turned * float(end), "rows")

    def by(self, near: float, method: Method) -> Judged:
        """The answer by this end of the interval."""
        if not isfinite(near):
            return self.without("the rows' scores are too far apart to be added up; score them by another metric")
        holds = self.turned * near <= self.turned * self.limit.value
        return self._judged("passed" if holds else "failed", None if method == "point" else near, method, None)

    def without(self, why: str) -> Judged:
        return self._judged("unknown", None, None, why)

    def _judged(self, outcome: Outcome, near: float | None, method: Method | None, why: str | None) -> Judged:
        found = self.found
        return Judged(
            outcome,
            self.value,
            self.limit.value,
            near,
            self.alpha,
            found.rows,
            found.clusters,
            self.varying,
            method,
            why,
        )


def judge_slices(values: Sequence[str], judged: Sequence[Judged], few: Sequence[str], asked: Asked) -> JudgedSlices:
    """Put together what was found in each group, each judged with α ÷ their number; `few` have too few rows.

    The worst is one that failed, or else one that is unknown, or else the one whose near end is closest to the limit.
    """
    named = list(few[:MOST_NAMED])
    if not judged:
        return JudgedSlices(None, None, 0, named, len(few))
    ranks = {"failed": 0, "unknown": 1, "passed": 2}
    turned = -1.0 if asked == "at_least" else 1.0

    def rank(place: int) -> tuple[int, float]:
        one = judged[place]
        return ranks[one.outcome], -turned * (one.value if one.near is None else one.near)

    worst = min(range(len(judged)), key=rank)
    return JudgedSlices(values[worst], judged[worst], len(judged), named, len(few))


def _check(alpha: float) -> None:
    if not 0 < alpha < 0.5:
        raise ValueError(f"an alpha lies between 0 and 0.5, and {alpha!r} does not")


def _varying(found: PairedRatio) -> int:
    """How many clusters differ from what most of them have, per mass."""
    import numpy as np

    each = found.sums / found.masses
    size = float(np.abs(each).max()) if len(each) else 0.0
    if not size or not isfinite(size):
        return 0
    # Subtracting scores leaves rounding errors.
    _, counts = np.unique(np.round(each / size, 9), return_counts=True)
    return len(each) - int(counts.max())


def _is_yes_or_no(found: PairedRatio, largest: float | None) -> bool:
    """Whether each cluster is one row, with a score of 0 or 1, none of which could be more."""
    alone = found.clusters == found.rows and bool((found.masses == 1).all())
    return alone and largest in (None, 1.0) and bool(((found.sums == 0) | (found.sums == 1)).all())


def _few(varying: int, found: PairedRatio, do: str) -> str:
    what = "rows" if found.clusters == found.rows else "groups of rows that belong together"
    return (
        f"only {varying} of {found.clusters} {what} {do}, fewer than {LEAST_DIFFERING}, and nothing bounds how much others "
        "could; take a dataset with more rows, or a metric whose scores have bounds"
    )
