"""Which setting of a sweep is the best, and what rows and seeds say of the others beside it.

A setting's score is the mean over its seeds per row. Its error has a row part, of the paired differences from the best,
and a seed part, of trainings that differ in nothing but the seed; with one seed for each setting that part is unknown,
and what is said holds for these trainings alone.

>>> import numpy as np
>>> rng = np.random.default_rng(0)
>>> rows = rng.normal(2.0, 0.5, 200)
>>> losses = [np.stack([rows + more + rng.normal(0, 0.05, 200) + rng.normal(0, 0.002) for _ in range(3)]) for more in (0.1, 0.0, 0.0)]
>>> found = judge([SettingScores(each, np.ones(200)) for each in losses], margin=0.02, lower_is_better=True, seed="a sweep")
>>> found.best, [one.outcome for one in found.settings]
(2, ['worse', 'as good', 'best'])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import copysign, hypot, inf, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal, TypedDict

from sdk.statistics.between_seeds import BetweenSeeds, between_seeds
from sdk.statistics.bootstrap import paired_ratio
from sdk.statistics.comparison import ALPHA, LEAST_CLUSTERS, LEAST_DIFFERING, POWER
from sdk.statistics.selection import DRAWS, Chances

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

__all__ = ["SettingJudgement", "SettingScores", "SweepJudgement", "judge"]

#: Scores that differ by a smaller share are equal, since they were added up in different orders.
_ROUNDING = 1e-12
#: Weights that differ by a smaller share are the same, as 32-bit numbers have them.
_OF_WEIGHTS = 1e-5
#: Where few rows differ, so many are added in mind that differ by all they can, half of them either way (Agresti and Min
#: 2005, who add two to pairs of yes and no). If none of n differs, the interval then ends beyond 3.7/n, the exact end.
_IN_MIND = 4


@dataclass(frozen=True)
class SettingScores:
    """What the trainings of one setting scored on each row; with none, shape (0, rows), it has no score."""

    #: (seeds, rows): Σ score · weight of each row, or group of rows, as 32-bit or 64-bit numbers.
    sums: npt.NDArray[np.floating]
    #: (rows,): Σ weight, the same for all settings.
    masses: Floats


@dataclass(frozen=True)
class SettingJudgement:
    """What the trainings of one setting say, against the best. Numbers are in units of the score."""

    outcome: Literal["best", "worse", "as good", "not told apart", "failed"]
    #: How many trainings it has that count.
    seeds: int
    #: None: it has none.
    score: float | None = None
    #: Over rows and, where the seed part is known, over seeds; None for too few rows.
    standard_error: float | None = None
    #: How much worse than the best; None for the best itself, and without a score.
    difference: float | None = None
    #: The standard error of the difference, with both parts; None for too few rows.
    difference_error: float | None = None
    #: Its interval: `low` is above 0 for what is shown to be worse, and `high` below the margin for what is as good.
    low: float | None = None
    high: float | None = None
    #: How often the best of as many equal settings is ahead by as much, adjusted for all comparisons.
    p: float | None = None
    #: The smallest difference that these rows and seeds show in 80 % of all cases.
    can_show: float | None = None
    #: How many rows score otherwise than the best's, if too few do to know how rows differ.
    differing: int | None = None


@dataclass(frozen=True)
class SweepJudgement:
    """What the scores of a sweep say."""

    #: The place of the best setting; None: none has a score.
    best: int | None
    #: Those that weigh something.
    rows: int
    #: How many rows of equal weight would say as much (Kish 1965): (Σ weight)² / Σ weight².
    equal_rows: float
    #: The standard deviation between trainings that differ in the seed alone, and its degrees of freedom; None, and 0:
    #: no setting has two trainings that count, and what is said holds for these trainings alone.
    seed_deviation: float | None
    seed_freedom: int
    #: The places of settings whose trainings vary far more than others', and that count with their own deviation.
    unsteady: list[int]
    #: In the order in which they were given.
    settings: list[SettingJudgement]

    @property
    def enough_rows(self) -> bool:
        """Whether anything can be told; otherwise the best is only the one with the best score."""
        return self.rows >= LEAST_CLUSTERS

    @property
    def enough_for_as_good(self) -> bool:
        """Whether a setting can be as good: few heavy rows don't show how much worse it is on others."""
        return self.enough_rows and self.equal_rows >= LEAST_CLUSTERS


def judge(
    settings: Sequence[SettingScores],
    *,
    margin: float,
    lower_is_better: bool,
    seed: str,
    bound: float | None = None,
    draws: int = DRAWS,
) -> SweepJudgement:
    """Say which setting is the best, and whether each other one is worse, as good, or not told apart from it.

    `margin`, in units of the score, is by how much a setting may be worse and still be as good: what is shown to lie
    within it is as good, even if it is also shown to be a little worse. `bound` is the most by which one row can
    differ, if scores have bounds. A setting of which a score isn't finite has failed, whatever its other trainings scored. Of equal
    scores the first is the best. The same `seed` gives the same answer. Raises ValueError for settings over different rows, rows without
    weight, and a margin that is not above 0.
    """
    if not 0 < margin < inf:
        raise ValueError(f"a margin is a number above 0, and {margin!r} is not")
    masses, weighing = _masses(settings)
    equal_rows = float(masses.sum()) ** 2 / float((masses**2).sum())
    counted = [_Counted.of(one, masses, weighing, worse=1.0 if lower_is_better else -1.0) for one in settings]
    between = between_seeds([one.losses for one in counted], seed=seed)
    counted = [one.with_seeds(between, alone=place in between.set_aside) for place, one in enumerate(counted)]
    judged = [one.judged() for one in counted]
    scored = [place for place, one in enumerate(counted) if one.seeds]
    result = SweepJudgement(
        None, len(masses), equal_rows, between.deviation, between.freedom, between.set_aside, judged
    )
    if not scored:
        return result
    least = min(counted[place].loss for place in scored)
    best = next(place for place in scored if counted[place].loss <= least + _ROUNDING * abs(least))
    judged[best] = replace(judged[best], outcome="best")
    others = [place for place in scored if place != best]
    differences = [_Difference.of(counted[best], counted[place], bound) for place in others]
    told: list[_Told] = [{"difference": one.difference} for one in differences]
    if others and result.enough_rows:
        chances = Chances(len(scored), row_freedom=equal_rows - 1, seed=seed, draws=draws)
        told = _told(differences, chances, margin, as_good=result.enough_for_as_good)
    for place, one in zip(others, told, strict=True):
        judged[place] = replace(judged[place], **one)
    return replace(result, best=best)


def _masses(settings: Sequence[SettingScores]) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """The weights of rows that have some, and which rows these are."""
    import numpy as np

    if not settings:
        raise ValueError("a sweep without settings has no best one")
    masses = np.asarray(settings[0].masses, dtype=np.float64)
    for one in settings:
        if one.sums.ndim != 2 or not one.sums.shape[1:] == one.masses.shape == masses.shape:
            raise ValueError("the settings of a sweep are compared on the same rows, and these differ in their number")
        # Weights that aren't whole numbers may have been added up in another order.
        if not np.allclose(one.masses, masses, rtol=_OF_WEIGHTS, atol=0.0, equal_nan=True):
            raise ValueError("the settings of a sweep are compared on the same rows, and these differ in their weights")
    weighing = masses > 0
    if not np.isfinite(masses).all() or (masses < 0).any() or not weighing.any():
        raise ValueError("rows weigh a finite number each, none less than 0, and not all of them 0")
    return masses[weighing], weighing


@dataclass(frozen=True)
class _Counted:
    """The trainings of a setting that count, turned so that less is better."""

    #: (seeds, all rows) as they were given; and which rows weigh something, with their weights (rows,).
    given: npt.NDArray[np.floating]
    weighing: npt.NDArray[np.bool_]
    masses: Floats
    #: (seeds,) the score of each training.
    losses: Floats
    #: Σ over rows of the mean over seeds, over Σ of weights.
    loss: float
    #: 1, or -1 where a higher score is better.
    worse: float
    #: The standard deviation between trainings, and its degrees of freedom; 0, and 0 if it is unknown.
    deviation: float = 0.0
    freedom: int = 0

    @classmethod
    def of(cls, scores: SettingScores, masses: Floats, weighing: npt.NDArray[np.bool_], *, worse: float) -> _Counted:
        import numpy as np

        sums = worse * scores.sums[:, weighing].astype(np.float64)
        given = scores.sums
        if not np.isfinite(sums).all():
            sums, given = sums[:0], given[:0]
        loss = float(sums.mean(axis=0).sum() / masses.sum()) if len(sums) else 0.0
        return cls(given, weighing, masses, sums.sum(axis=1) / masses.sum(), loss, worse)

    @property
    def sums(self) -> Floats:
        """(rows,) the mean over seeds of each row's sum, worked out anew: those of all settings would take twice what was given."""
        found: Floats = self.worse * self.given[:, self.weighing].astype("float64").mean(axis=0)
        return found

    @property
    def seeds(self) -> int:
        return len(self.losses)

    @property
    def seed_error(self) -> float:
        """The seed part of the score's error."""
        return self.deviation / sqrt(self.seeds)

    def with_seeds(self, between: BetweenSeeds, *, alone: bool) -> _Counted:
        """The same with the deviation of all settings, or its own."""
        import numpy as np

        if alone:
            return replace(self, deviation=float(np.std(self.losses, ddof=1)), freedom=self.seeds - 1)
        return replace(self, deviation=between.deviation or 0.0, freedom=between.freedom)

    def judged(self) -> SettingJudgement:
        """The answer for a setting that is compared with nothing."""
        if not self.seeds:
            return SettingJudgement("failed", 0)
        error = None
        if len(self.masses) >= LEAST_CLUSTERS:
            row_part = paired_ratio(self.sums, self.masses).standard_error
            error = hypot(row_part, self.seed_error)
        return SettingJudgement("not told apart", self.seeds, self.worse * self.loss, error)


@dataclass(frozen=True)
class _Difference:
    """How much worse than the best a setting is, with the two parts of its error."""

    difference: float
    row_error: float
    seed_error: float
    seed_freedom: int
    differing: int
    #: Whether too few rows differ to know how rows do.
    unknown: bool

    @classmethod
    def of(cls, best: _Counted, other: _Counted, bound: float | None) -> _Difference:
        import numpy as np

        found = paired_ratio(other.sums - best.sums, best.masses)
        differing = int(np.count_nonzero(found.sums))
        row_error = found.standard_error
        few = differing < LEAST_DIFFERING
        if few and bound is not None:
            in_mind = sqrt(_IN_MIND) * bound * float(best.masses.max() / best.masses.sum())
            row_error = hypot(row_error, in_mind)
        seed_error, freedom = hypot(best.seed_error, other.seed_error), min(best.freedom, other.freedom)
        unknown = few and bound is None and differing > 0
        return cls(max(0.0, found.difference), row_error, seed_error, freedom, differing, unknown)

    @property
    def error(self) -> float:
        return hypot(self.row_error, self.seed_error)

    @property
    def share(self) -> float:
        """How much of the variance is the rows'."""
        return (self.row_error / self.error) ** 2 if self.error else 1.0

    @property
    def t_worse(self) -> float:
        """How many standard errors it is above 0."""
        return _ratio(self.difference, self.error)

    def t_as_good(self, margin: float) -> float:
        """How many standard errors it is below the margin."""
        return _ratio(margin - self.difference, self.error)


def _ratio(distance: float, error: float) -> float:
    return distance / error if error else copysign(inf, distance) if distance else 0.0


class _Told(TypedDict, total=False):
    """What is told of a setting beside the best."""

    outcome: Literal["worse", "as good", "not told apart"]
    difference: float
    difference_error: float
    low: float
    high: float
    p: float
    can_show: float
    differing: int


def _told(differences: Sequence[_Difference], chances: Chances, margin: float, *, as_good: bool) -> list[_Told]:
    """Both questions, each step by step: the clearest case first, against all that are still in question, and from the
    first case on that is not clear, none is.
    """
    told: list[_Told] = []
    for one in differences:
        told.append({"difference": one.difference, "difference_error": one.error})
        if one.differing < LEAST_DIFFERING and one.row_error:
            told[-1]["differing"] = one.differing
    known = [place for place, one in enumerate(differences) if not one.unknown]
    p = critical = 0.0
    for step, place in enumerate(sorted(known, key=lambda place: -differences[place].t_worse)):
        one = differences[place]
        chance = chances.apart(len(differences) + 1 - step, one.share, seed_freedom=one.seed_freedom)
        own = chance.critical(ALPHA)
        p, critical = max(p, chance.p(one.t_worse)), own if p < ALPHA else max(critical, own)
        told[place] |= {"p": p, "low": one.difference - critical * one.error}
        told[place]["can_show"] = (own + NormalDist().inv_cdf(POWER)) * one.error
    clear, critical = True, 0.0
    for step, place in enumerate(sorted(known, key=lambda place: -differences[place].t_as_good(margin))):
        one = differences[place]
        own = chances.ahead(len(differences) - step, one.share, seed_freedom=one.seed_freedom).critical(ALPHA / 2)
        critical = own if clear else max(critical, own)
        clear = clear and one.t_as_good(margin) > critical
        told[place]["high"] = one.difference + critical * one.error
    for each in told:
        good, worse = as_good and each.get("high", inf) < margin, each.get("p", 1.0) < ALPHA
        each["outcome"] = "as good" if good else "worse" if worse else "not told apart"
    return told
