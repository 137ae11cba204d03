"""Sweeps whose true scores are known, and how often they are judged wrongly.

Settings share the difficulty of each row. Beside it each has an effect of its own on each row, each training one more, and
each seed one on all rows, whose deviation is so many times the error over rows of a setting's score. Skewed rows weigh
lognormal tokens, effects on them are exponential, and what makes a setting worse falls on few of them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import e, sqrt

import numpy as np

from sdk.statistics.comparison import ALPHA, holm
from sdk.statistics.selection import Chance, Chances
from sdk.statistics.sweeps import SettingScores, SweepJudgement, judge

#: What an answer draws is drawn anew for each sweep, so that fewer draws make single answers less exact, but not wrong
#: more often.
_DRAWS = 1_000
#: The deviation of a row's score, of a setting's effect on it, and of a training's.
_OF_ROW, _OF_SETTING, _OF_TRAINING = 0.7, 0.1, 0.05
#: Scores lie around it.
SCORE = 2.0


@dataclass(frozen=True)
class Design:
    """What all sweeps of a line have in common."""

    settings: int
    seeds: int
    rows: int
    #: The deviation between seeds, over the error over rows.
    noise: float
    skewed: bool
    #: By how many margins the settings after the best are worse, in turn.
    lacks: tuple[float, ...]
    #: A number, in units of the score; or None: four standard errors of a difference, as far as one can know them. Within
    #: fewer hardly anything is as good, and more change nothing.
    given_margin: float | None = None

    @property
    def row_error(self) -> float:
        """The standard error of a setting's score over rows, without what settings share."""
        weights = e if self.skewed else 1.0
        return sqrt((_OF_SETTING**2 + _OF_TRAINING**2 / self.seeds) * weights / self.rows)

    @property
    def margin(self) -> float:
        """In units of the score."""
        known = self.noise if self.seeds > 1 else 0.0
        return self.given_margin or 4 * sqrt(2 * (1 + known**2 / self.seeds)) * self.row_error

    @property
    def worse(self) -> np.ndarray:
        """(settings,) by how much each is worse than the best."""
        others = self.settings - 1
        return self.margin * np.array([0.0, *(self.lacks * others)[:others]])


@dataclass(frozen=True)
class Made:
    """The scores of a sweep, and by how much the trainings of each setting are worse than the best's over all rows."""

    settings: list[SettingScores]
    trained_worse: np.ndarray


def made(design: Design, rng: np.random.Generator) -> Made:
    """Draw a sweep."""
    count, seeds, rows = design.settings, design.seeds, design.rows
    between = rng.normal(0, design.noise * design.row_error, (count, seeds, 1)).astype(np.float32)
    lacks = design.worse.astype(np.float32)[:, None, None]
    shared = np.float32(_OF_ROW) * rng.standard_normal(rows, dtype=np.float32) + np.float32(SCORE)
    own, each = (count, 1, rows), (count, seeds, rows)
    draw = rng.standard_exponential if design.skewed else rng.standard_normal
    effects = np.float32(_OF_SETTING) * draw(own, dtype=np.float32)
    if seeds > 1:
        effects = effects + np.float32(_OF_TRAINING) * draw(each, dtype=np.float32)
    tokens = np.ones(rows)
    if design.skewed:
        tokens = np.ceil(rng.lognormal(3, 1, rows))
        effects = effects + lacks * (rng.standard_exponential(own, dtype=np.float32) - 1)
    scores = (shared + effects + between + lacks) * tokens.astype(np.float32)
    trained = (lacks + between).mean(axis=(1, 2))
    return Made([SettingScores(one, tokens) for one in scores], trained - trained.min())


def counted(design: Design, *, sweeps: int, seed: int = 0) -> Counter[str]:
    """In how many sweeps something was told that isn't so, and how often what is so was told."""
    facts = [design.settings, design.seeds, design.rows, int(design.noise), int(design.skewed)]
    rng = np.random.default_rng([seed, *facts, *(int(each) for each in design.lacks)])
    lacks, margin = design.worse, design.margin
    share = 1 / (1 + design.noise**2 / design.seeds) if design.seeds > 1 else 1.0
    freedom = design.settings * (design.seeds - 1)
    pair = Chances(2, row_freedom=design.rows - 1, seed="").apart(2, share, seed_freedom=freedom)
    counts: Counter[str] = Counter()
    for number in range(sweeps):
        sweep = made(design, rng)
        found = judge(sweep.settings, margin=margin, lower_is_better=True, seed=str(number), draws=_DRAWS)
        outcomes = np.array([one.outcome for one in found.settings])
        worse, good = outcomes == "worse", outcomes == "as good"
        counts["worse"] += bool(worse[lacks == 0].any())
        counts["good"] += bool(good[lacks >= margin * (1 - 1e-9)].any())
        # One of these trainings is the best of them.
        counts["trainings worse"] += bool(worse[sweep.trained_worse == 0].any())
        counts["trainings good"] += bool(good[sweep.trained_worse >= margin].any())
        for lack in sorted(set(design.lacks)):
            among = lacks[1:] == lack * margin
            counts[f"told worse by {lack:g}"] += int(worse[1:][among].sum())
            counts[f"told good by {lack:g}"] += int(good[1:][among].sum())
        if not any(design.lacks):
            counts["worse by Holm"] += _told_by_holm(found, pair)
    return counts


def _told_by_holm(found: SweepJudgement, pair: Chance) -> bool:
    """Whether t-tests against the best, corrected by Holm over m − 1, say of any setting that it is worse."""
    others = [one for one in found.settings if one.outcome != "best"]
    p = holm([pair.p((one.difference or 0.0) / (one.difference_error or 1.0)) for one in others])
    return any(each < ALPHA and one.outcome != "as good" for each, one in zip(p, others, strict=True))
