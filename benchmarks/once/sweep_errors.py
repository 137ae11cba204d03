"""How often sweeps are judged wrongly, over made scores: `python -m benchmarks.once.sweep_errors OUT.jsonl [PART PARTS]`.

Appends a line for each kind of sweep to OUT.jsonl: in how many of 2,000 sweeps a setting that truly equals the best is said to
be worse, and in how many one is said to be as good that is worse by the margin or more; and how often a true difference
is told. Lines that are there already are not made again. With 1 2 it takes every other kind, from the first. With
`--tables FILE…` it prints them.

Settings share the difficulty of each row. Beside it each has an effect of its own on each row, each training one more, and
each seed one on all rows, whose deviation is 0, 1 or 3 times the error over rows of a setting's score. Skewed rows weigh
lognormal tokens, effects on them are exponential, and what makes a setting worse falls on few of them.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from math import e, sqrt
from pathlib import Path
from typing import Any

import numpy as np

from sdk.statistics.comparison import ALPHA, holm
from sdk.statistics.selection import Chances
from sdk.statistics.sweeps import SettingScores, judge

SWEEPS = 2_000
#: What an answer draws is drawn anew for each sweep, so that fewer draws make single answers less exact, but not wrong
#: more often.
_DRAWS = 1_000
#: The deviation of a row's score, of a setting's effect on it, and of a training's.
_OF_ROW, _OF_SETTING, _OF_TRAINING = 0.7, 0.1, 0.05
#: Scores lie around it.
_SCORE = 2.0


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
    #: A number, in units of the score; or None: four standard errors of a difference. Within fewer hardly anything is as
    #: good, and more change nothing.
    given_margin: float | None = None

    @property
    def row_error(self) -> float:
        """The standard error of a setting's score over rows, without what settings share."""
        weights = e if self.skewed else 1.0
        return sqrt((_OF_SETTING**2 + _OF_TRAINING**2 / self.seeds) * weights / self.rows)

    @property
    def margin(self) -> float:
        """In units of the score."""
        return self.given_margin or 4 * sqrt(2 * (1 + self.noise**2 / self.seeds)) * self.row_error

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
    shared = np.float32(_OF_ROW) * rng.standard_normal(rows, dtype=np.float32) + np.float32(_SCORE)
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


def counted(design: Design, *, sweeps: int = SWEEPS, seed: int = 0) -> Counter[str]:
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
            places = [place for place, one in enumerate(found.settings) if one.difference_error]
            p = holm(
                [
                    pair.p((found.settings[place].difference or 0.0) / (found.settings[place].difference_error or 1.0))
                    for place in places
                ]
            )
            counts["worse by Holm"] += any(
                each < ALPHA and not good[place] for each, place in zip(p, places, strict=True)
            )
    return counts


def designs() -> Iterator[Design]:
    """Every kind of sweep, those of false answers first."""
    for seeds, noise, rows, skewed, settings in product(
        (3, 2, 1, 5), (1, 3, 0), (30, 100, 1000), (False, True), (10, 2, 5)
    ):
        for lacks in ((0.0,), (1.0,)):
            yield Design(settings, seeds, rows, noise, skewed, lacks)
    for noise, rows, settings, lacks in product((1, 3), (30, 100, 1000), (2, 5, 10), ((2.0,), (5.0,), (0.0,))):
        yield Design(settings, 3, rows, noise, False, lacks, given_margin=0.01 * _SCORE)


def main() -> None:
    """Make what is missing."""
    out, part, parts = Path(sys.argv[1]), *(int(word) for word in (sys.argv[2:] or ("1", "1")))
    there = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    for design in list(designs())[part - 1 :: parts]:
        facts: dict[str, Any] = json.loads(json.dumps(asdict(design)))
        if facts in [line["design"] for line in there]:
            continue
        with out.open("a") as lines:
            print(json.dumps({"design": facts, "sweeps": SWEEPS, "counts": counted(design)}), file=lines)


if __name__ == "__main__":
    main()
