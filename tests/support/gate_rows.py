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
from sdk.statistics.paired_shares import worse_p

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
_MANY_ANSWERS = 1_000
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
    if design.asked in (many := {"any of ten": _any_of_ten, "ten in a row": _ten_in_a_row}):
        passed = int(many[design.asked](design, rng, draws).sum())
        return {"passed": passed, "failed": draws - passed}
    ask = {"not worse": _not_worse, "score": _score}
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
    if design.kind == "yes or no" and design.rows >= _MANY_ANSWERS:
        # The same question without the interval's end, which takes ten times as long.
        worse, better = int((sums > 0).sum()), int((sums < 0).sum())
        return "passed" if worse_p(worse, better, design.rows, margin) <= alpha else "failed"
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


def _through(worse: np.ndarray, margin: float, alpha: float) -> np.ndarray:
    """(draws,) which get through, by how much each row is worse, (draws, rows): as `judge_not_worse` decides where rows weigh
    the same and all differ, but for all draws at once.
    """
    passed: np.ndarray = most_of_ratio(worse, np.ones_like(worse), alpha=alpha) <= margin
    return passed


def _any_of_ten(design: Design, rng: np.random.Generator, draws: int) -> np.ndarray:
    """(draws,) whether any of ten versions gets through, each of which is worse by the margin, of rows of equal weight: their
    differences have half their variance in common, which is that of the version that they are compared with.
    """
    margin = design.margin * DEVIATIONS[design.kind]
    shape, any_passed = (draws, design.rows), np.zeros(draws, dtype=bool)
    shared = differences(rng, design.kind, draws * design.rows, 0.0)[0].reshape(shape)
    for number in range(1, _VERSIONS + 1):
        own = differences(rng, design.kind, draws * design.rows, 0.0)[0].reshape(shape)
        any_passed |= _through((shared + own) / sqrt(2) + margin, margin, tried_alpha(design.alpha, number))
    return any_passed


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


def _ten_in_a_row(design: Design, rng: np.random.Generator, draws: int) -> np.ndarray:
    """(draws,) whether an alias ends at a version that is worse than its first by more than the margin.

    Ten versions, each truly worse than what the alias names by a part of the margin, are offered one after the other, and
    judged beside what it names and the best that it has named, by the rows' scores. Rows vary by a half of the variance of a
    difference.
    """
    margin, every = design.margin * DEVIATIONS["normal"], np.arange(draws)

    def drawn(losses: np.ndarray) -> np.ndarray:
        return losses[..., None] + rng.normal(size=(*losses.shape, design.rows)) / sqrt(2)

    # (draws, versions), and with rows; a version that was never named has an infinite loss.
    true = np.full((draws, _VERSIONS + 1), np.inf)
    true[:, 0] = 0.0
    last = np.zeros(draws, dtype=int)
    scores = drawn(np.zeros((draws, 1)))
    for number in range(1, _VERSIONS + 1):
        loss = true[every, last] + design.worse * margin
        if design.fresh:
            scores = drawn(true[:, :number])
        new = drawn(loss)
        best = np.where(np.isfinite(true[:, :number]), scores.mean(axis=2), np.inf).argmin(axis=1)
        alpha = tried_alpha(design.alpha, 1 if design.fresh else number)
        passed = np.ones(draws, dtype=bool)
        for other in (last, best):
            passed &= _through(new - scores[every, other], margin, alpha)
        true[passed, number] = loss[passed]
        last = np.where(passed, number, last)
        scores = np.concatenate([scores, new[:, None]], axis=1)
    return true[every, last] > margin * (1 + 1e-9)


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
