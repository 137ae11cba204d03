"""Rows of two versions whose true difference is known, and how often a gate lets the second through."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from hashlib import sha256
from math import e, sqrt

import numpy as np

from sdk.statistics.bootstrap import paired_ratio
from sdk.statistics.gates import Asked, Judged, ScoreLimit, judge_not_worse, judge_score, tried_alpha
from sdk.statistics.one_sided import most_of_ratio

#: How rows differ → the standard deviation of their differences: of a row's sum, by the mean of what rows weigh.
DEVIATIONS = {
    "normal": 1.0,
    "tokens": sqrt(e),
    "tokens, more in long rows": sqrt(e),
    "t(3)": sqrt(3.0),
    "yes or no": sqrt(0.3),
    "skewed harm": sqrt(e),
    "skewed gain": sqrt(e),
    "10 % differ": sqrt(0.1),
    "10 % differ, bounded": sqrt(0.1 / 3),
    "rare large harm": sqrt(0.3375),
}
#: Scores by themselves → their true mean.
SCORES = {"loss": 2.0, "yes or no": 0.8, "shares": 2 / 3, "nearly all right": 0.975}
#: Of yes and no, so many rows differ.
_DIFFER = 0.3
#: How many versions are tried on the same rows, or promoted one after the other.
_VERSIONS = 10


@dataclass(frozen=True)
class Design:
    """One question to a gate, asked many times of rows that are drawn anew."""

    #: "not worse"; "score", which truly is its limit; "any of ten" on the same rows, and "ten in a row".
    asked: str
    kind: str
    rows: int
    #: How much worse the version truly is, in margins: 1 must not get through, 0 is as good. Of "ten in a row", than the one
    #: before.
    worse: float = 1.0
    #: The margin, in standard deviations of the rows' differences.
    margin: float = 0.5
    alpha: float = 0.05
    #: The number of the version that is tried on these rows; 1: alpha itself, as if there would be no others.
    tries: int = 1
    #: Of "ten in a row": whether each is judged on fresh rows.
    fresh: bool = False


def counted(design: Design, *, draws: int) -> dict[str, int]:
    """In how many draws it got through ("passed"), and could not be judged ("unknown")."""
    rng = np.random.default_rng(int.from_bytes(sha256(repr(design).encode()).digest()))
    ask = {"not worse": _not_worse, "score": _score, "any of ten": _any_of_ten, "ten in a row": _ten_in_a_row}
    return dict(Counter(ask[design.asked](design, rng) for _ in range(draws)))


def ends_below(kind: str, rows: int, alpha: float, *, draws: int, at_once: int = 5_000) -> int:
    """In how many draws the end that is taken from the rows alone is below the true ratio: many draws for a small alpha."""
    rng, below = np.random.default_rng(rows), 0
    for _ in range(draws // at_once):
        sums, masses = differences(rng, kind, rows * at_once, 0.0)
        ends = most_of_ratio(sums.reshape(-1, rows), masses.reshape(-1, rows), alpha=alpha)
        below += int((ends < 0).sum())
    return below


def _not_worse(design: Design, rng: np.random.Generator) -> str:
    margin = design.margin * DEVIATIONS[design.kind]
    sums, masses = differences(rng, design.kind, design.rows, design.worse * margin)
    alpha = design.alpha if design.tries == 1 else tried_alpha(design.alpha, design.tries)
    return _judged(design, sums, masses, margin, alpha).outcome


def _judged(design: Design, sums: np.ndarray, masses: np.ndarray, margin: float, alpha: float) -> Judged:
    return judge_not_worse(
        paired_ratio(sums, masses),
        ScoreLimit("not_worse_than", margin),
        alpha=alpha,
        lower_is_better=True,
        step=1.0 if design.kind == "yes or no" else None,
        largest=1.0 if design.kind.endswith("bounded") else None,
    )


def _any_of_ten(design: Design, rng: np.random.Generator) -> str:
    """Ten versions, each of which is worse by the margin, of rows of equal weight: their differences have half their variance
    in common, which is that of the version that they are compared with.
    """
    margin = design.margin * DEVIATIONS[design.kind]
    shared, masses = differences(rng, design.kind, design.rows, 0.0)
    found = []
    for number in range(1, _VERSIONS + 1):
        own, _ = differences(rng, design.kind, design.rows, 0.0)
        sums = (shared + own) / sqrt(2) + margin * masses
        found.append(_judged(design, sums, masses, margin, tried_alpha(design.alpha, number)).outcome)
    return "passed" if "passed" in found else "failed"


def _score(design: Design, rng: np.random.Generator) -> str:
    mean, rows, ones = SCORES[design.kind], design.rows, np.ones(design.rows)
    largest: float | None = 1.0
    asked: Asked = "at_least"
    match design.kind:
        case "loss":
            masses = np.exp(rng.normal(size=rows))
            sums, largest, asked = rng.gamma(4.0, mean / 4.0, size=rows) * masses, None, "at_most"
        case "yes or no":
            sums, masses = (rng.random(rows) < mean).astype(float), ones
        case "shares":
            sums, masses = rng.beta(2, 1, size=rows), ones
        case "nearly all right":
            sums, masses = np.where(rng.random(rows) < 0.95, 1.0, rng.random(rows)), ones
        case _:
            raise ValueError(design.kind)
    limit = ScoreLimit(asked, mean)
    return judge_score(paired_ratio(sums, masses), limit, alpha=design.alpha, largest=largest).outcome


def _ten_in_a_row(design: Design, rng: np.random.Generator) -> str:
    """Ten versions, each truly worse than what the alias names by a part of the margin, are offered one after the other, and
    judged beside what it names and the best that it has named, by the rows' scores. "passed": it ends at a version that is
    worse than the first by more than the margin.
    """
    margin = design.margin * DEVIATIONS["normal"]

    def drawn(losses: list[float]) -> list[np.ndarray]:
        return [loss + rng.normal(size=design.rows) / sqrt(2) for loss in losses]

    true, scores = [0.0], drawn([0.0])
    for number in range(1, _VERSIONS + 1):
        loss = true[-1] + design.worse * margin
        if design.fresh:
            scores = drawn(true)
        new = drawn([loss])[0]
        best = min(range(len(true)), key=lambda place: scores[place].mean())
        alpha = tried_alpha(design.alpha, 1 if design.fresh else number)
        judged = [
            _judged(design, new - scores[place], np.ones(design.rows), margin, alpha) for place in {best, len(true) - 1}
        ]
        if all(one.outcome == "passed" for one in judged):
            true.append(loss)
            scores.append(new)
    return "passed" if true[-1] > margin * (1 + 1e-9) else "failed"


def differences(rng: np.random.Generator, kind: str, rows: int, mean: float) -> tuple[np.ndarray, np.ndarray]:
    """Draw by how much each row is worse, times what it weighs, and what it weighs, (rows,) both; `mean` is the true one."""
    ones, z = np.ones(rows), rng.normal(size=rows)
    tokens = np.exp(rng.normal(size=rows)) if kind.startswith(("tokens", "skewed")) else ones
    # E[z·e^z]/E[e^z] is 1 for a standard normal z, so that the mean per token is 0.
    long, skewed = 0.1 * (np.log(tokens) - 1), rng.exponential(size=rows) - 1
    tenth = rng.random(rows) < 0.1
    match kind:
        case "normal" | "tokens":
            return (z + mean) * tokens, tokens
        case "tokens, more in long rows":
            return (z + long + mean) * tokens, tokens
        case "t(3)":
            return rng.standard_t(3, rows) + mean, ones
        case "skewed harm":
            return (skewed + long + mean) * tokens, tokens
        case "skewed gain":
            return (mean - skewed - long) * tokens, tokens
        case "10 % differ":
            return tenth * (skewed + mean / 0.1), ones
        case "10 % differ, bounded":
            signs = np.where(rng.random(rows) < 0.5 + mean / 0.1, 1.0, -1.0)
            return tenth * signs * rng.random(rows), ones
        case "rare large harm":
            return 5.0 * (rng.random(rows) < 0.01) - 0.05 + 0.3 * z + mean, ones
        case "yes or no":
            chances = [(_DIFFER + mean) / 2, (_DIFFER - mean) / 2, 1 - _DIFFER]
            return rng.choice([1.0, -1.0, 0.0], rows, p=chances), ones
        case _:
            raise ValueError(kind)
