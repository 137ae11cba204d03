"""Gates let through what misses a limit as rarely as they say, at any alpha, and say when rows can't tell."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import comb, pi, sqrt

import numpy as np
import pytest
from support.gate_rows import Design, counted

from sdk.statistics.bootstrap import PairedRatio, paired_ratio
from sdk.statistics.bounded import most_of_share
from sdk.statistics.gates import (
    Judged,
    JudgedLimit,
    JudgedSlices,
    ScoreLimit,
    judge_not_worse,
    judge_score,
    judge_slices,
    rows_for,
    tried_alpha,
)
from sdk.statistics.one_sided import most_of_ratio, t_quantile
from sdk.statistics.paired_shares import MOST_EXACT_ROWS, most_worse, worse_p

_NORMAL = Design("not worse", "normal", 30)


def rows(values: np.ndarray | list[float], groups: np.ndarray | None = None) -> PairedRatio:
    return paired_ratio(np.asarray(values, dtype=float), np.ones(len(values)), groups=groups)


def worse(values: np.ndarray | list[float], margin: float, *, alpha: float = 0.05, **given: object) -> Judged:
    return judge_not_worse(
        rows(values), ScoreLimit("not_worse_than", margin), alpha=alpha, **{"lower_is_better": True, **given}
    )


@pytest.mark.parametrize(
    ("design", "least", "most"),
    [
        # A two-sided interval would let 2.5 % through, and an alpha that nobody reads 5 %.
        (_NORMAL, 0.038, 0.065),
        (replace(_NORMAL, alpha=0.2), 0.17, 0.23),
        (replace(_NORMAL, tries=3), 0.0, 0.01),
        (replace(_NORMAL, kind="tokens"), 0.035, 0.065),
        (replace(_NORMAL, kind="t(3)"), 0.03, 0.08),
        (replace(_NORMAL, kind="yes or no", margin=0.2), 0.035, 0.05),
        (Design("score", "loss", 100), 0.03, 0.09),
        (Design("score", "yes or no", 100), 0.02, 0.065),
    ],
    ids=lambda value: f"{value.kind} {value.alpha} {value.tries}" if isinstance(value, Design) else "",
)
def test_what_is_worse_by_the_margin_gets_through_as_rarely_as_is_said(
    design: Design, least: float, most: float
) -> None:
    share = counted(design, draws=800).get("passed", 0) / 800
    print(f"{design}: {share:.4f}")
    assert least <= share <= most


@pytest.mark.parametrize(("count", "tries", "least"), [(30, 1, 0.75), (100, 1, 0.95), (100, 10, 0.85)])
def test_what_is_as_good_gets_through_with_a_margin_of_half_a_deviation(count: int, tries: int, least: float) -> None:
    assert counted(Design("not worse", "normal", count, worse=0.0, tries=tries), draws=300)["passed"] >= least * 300


def test_ten_worse_versions_on_the_same_rows_get_through_as_rarely_as_one() -> None:
    assert counted(Design("any of ten", "normal", 100), draws=200).get("passed", 0) <= 0.065 * 200


def test_ten_versions_that_are_each_a_little_worse_lose_one_margin_in_all() -> None:
    assert counted(Design("ten in a row", "normal", 100, worse=0.34), draws=200).get("passed", 0) <= 0.05 * 200


def test_the_margin_is_on_the_side_of_what_is_worse() -> None:
    values = np.random.default_rng(1).normal(0.3, 1.0, 100)
    found, mirrored = worse(values, 0.6), worse(-values, 0.6, lower_is_better=False)
    # A higher loss is worse, and a lower score.
    assert found == mirrored
    assert found.outcome == "passed"
    assert found.value == pytest.approx(values.mean())
    assert found.value < found.near < 0.6
    assert worse(values, 0.6, lower_is_better=False).near < 0 < worse(values, 0.2).near
    assert worse(values, 0.2).outcome == "failed"
    assert worse(values, 0.0, lower_is_better=False).outcome == "passed"


def test_a_score_s_near_end_is_below_it_or_above_it() -> None:
    values = np.random.default_rng(2).gamma(4.0, 0.5, 200)
    least, most = (judge_score(rows(values), ScoreLimit(asked, 2.0), alpha=0.05) for asked in ("at_least", "at_most"))
    assert least.near < least.value == most.value < most.near
    # One-sided: 1.65 standard errors, and not 1.97.
    error = values.std(ddof=1) / sqrt(200)
    assert least.near == pytest.approx(least.value - 1.65 * error, abs=0.1 * error)
    assert judge_score(rows(values), ScoreLimit("at_least", least.near - 1e-9), alpha=0.05).outcome == "passed"
    assert judge_score(rows(values), ScoreLimit("at_least", least.near + 1e-9), alpha=0.05).outcome == "failed"
    by_hand = judge_score(rows(values), ScoreLimit("at_least", least.value, point=True), alpha=0.05)
    assert (by_hand.outcome, by_hand.near, by_hand.method) == ("passed", None, "point")


@pytest.mark.parametrize("kind", ["rows", "yes or no", "bounds"])
def test_a_smaller_alpha_always_asks_for_more(kind: str) -> None:
    rng = np.random.default_rng(3)
    values = {
        "rows": rng.exponential(size=40) - 1,
        "yes or no": rng.choice([-1.0, 0.0, 1.0], 40),
        "bounds": np.concatenate([np.zeros(36), [0.5, -0.2, 0.1, -0.4]]),
    }[kind]
    given = {"rows": {}, "yes or no": {"step": 1.0}, "bounds": {"largest": 1.0}}[kind]
    ends = [worse(values, 0.1, alpha=alpha, **given).near for alpha in (0.2, 0.05, 3e-4, 1e-5, 1e-7)]
    assert ends == sorted(set(ends))
    assert worse(values, 0.1, **given).method == {"yes or no": "exact"}.get(kind, kind)


def test_student_s_quantiles_are_the_published_ones() -> None:
    found = [t_quantile(alpha, freedom) for alpha, freedom in ((0.05, 10), (3.04e-4, 29), (1e-6, 99), (0.05, 1e6))]
    assert found == pytest.approx([1.8125, 3.8452, 5.0520, 1.6449], abs=2e-4)


def test_rows_that_are_not_skewed_have_student_s_end_and_skewed_ones_hall_s() -> None:
    even = np.random.default_rng(4).normal(size=20)
    even = np.concatenate([even, -even])
    end = t_quantile(0.05, 39) * even.std(ddof=1) / sqrt(40)
    assert float(most_of_ratio(even, np.ones(40), alpha=0.05)) == pytest.approx(end)
    skewed = np.random.default_rng(4).exponential(size=40)
    error, gamma = skewed.std(ddof=1) / sqrt(40), float((((skewed - skewed.mean()) / skewed.std()) ** 3).mean())

    def straight(t: float) -> float:
        return t + gamma * t**2 / (3 * sqrt(40)) + gamma**2 * t**3 / (27 * 40) + gamma / (6 * sqrt(40))

    near = float(most_of_ratio(skewed, np.ones(40), alpha=0.05))
    assert straight((skewed.mean() - near) / error) == pytest.approx(-t_quantile(0.05, 39))


def test_a_row_that_weighs_as_much_as_all_others_is_not_taken_for_many() -> None:
    rng = np.random.default_rng(5)
    sums, masses = rng.normal(size=40), np.ones(40)
    others = float(sums[1:].mean())
    masses[0], sums[0] = 39.0, 39.0 * (others - 1.0)
    ratio = float(sums.sum() / masses.sum())
    assert ratio == pytest.approx(others - 0.5)
    # Without that row it would be half higher; and of two that weigh as much, Student's quantile is large.
    assert float(most_of_ratio(sums, masses, alpha=0.05)) > ratio + 0.5 * t_quantile(0.05, 4)


@pytest.mark.parametrize(("got_worse", "got_better"), [(0, 0), (0, 3), (3, 1), (2, 2), (1, 5)])
def test_answers_of_yes_and_no_are_counted_exactly(got_worse: int, got_better: int) -> None:
    total, margin = 12, 0.2

    def statistic(a: int, b: int) -> float:
        linear = -a - b + (2 * total - a + b) * margin
        share = (sqrt(linear**2 + 8 * total * b * margin * (1 - margin)) - linear) / (4 * total)
        away = a - b - total * margin
        return away / sqrt(total * (2 * share + margin * (1 - margin))) if abs(away) > 1e-9 else 0.0

    def chance(differ: float) -> float:
        a, b = (differ + margin) / 2, (differ - margin) / 2
        return sum(
            comb(total, i) * comb(total - i, j) * a**i * b**j * (1 - differ) ** (total - i - j)
            for i, j in product(range(total + 1), repeat=2)
            if i + j <= total and statistic(i, j) <= statistic(got_worse, got_better) + 1e-9
        )

    by_hand = max(chance(differ) for differ in np.linspace(margin, 1, 200))
    assert worse_p(got_worse, got_better, total, margin) == pytest.approx(by_hand, rel=0.01)
    end = most_worse(got_worse, got_better, total, alpha=0.05)
    assert worse_p(got_worse, got_better, total, end + 1e-4) <= 0.05 < worse_p(got_worse, got_better, total, end - 1e-4)


def test_of_very_many_answers_the_normal_distribution_says_the_same() -> None:
    few, many = (
        most_worse(count // 10, count // 10, count, alpha=0.01) for count in (MOST_EXACT_ROWS, MOST_EXACT_ROWS + 10)
    )
    assert few == pytest.approx(many, rel=0.02)


def test_bounds_hold_whatever_is_not_seen() -> None:
    assert 1 - 0.05 ** (1 / 100) < most_of_share(np.zeros(100), alpha=0.05) < 0.045
    same = worse(np.zeros(100), 0.05, largest=1.0)
    # Others may get better as well, so that more is left open than for a share.
    assert (same.outcome, same.method, same.differing) == ("passed", "bounds", 0)
    assert 0.03 < same.near < 0.05
    many = np.random.default_rng(6).random(10_000)
    assert most_of_share(many, alpha=0.05) == pytest.approx(many.mean() + 0.01, abs=0.005)
    right = judge_score(rows([1.0] * 97 + [0.4, 0.2, 0.9]), ScoreLimit("at_least", 0.94), alpha=0.05, largest=1.0)
    assert (right.method, right.outcome) == ("bounds", "failed")
    assert 0.9 < right.near < right.value
    assert (
        judge_score(rows([0.0] * 97 + [0.4, 0.2, 0.9]), ScoreLimit("at_most", 0.06), alpha=0.05, largest=1.0).near < 0.1
    )


def test_what_rows_can_not_tell_is_unknown_and_says_why() -> None:
    rng = np.random.default_rng(7)
    few = worse(rng.normal(size=19), 9.0)
    assert (few.outcome, few.near) == ("unknown", None)
    assert few.why == "19 rows are too few of at least 20; take a dataset with more"
    grouped = rows(rng.normal(size=200), np.arange(200) % 19)
    limit = ScoreLimit("not_worse_than", 9.0)
    found = judge_not_worse(grouped, limit, alpha=0.05, lower_is_better=True)
    assert found.why == "19 groups of rows that belong together are too few of at least 20; take a dataset with more"
    rare = np.concatenate([np.zeros(90), rng.normal(size=10)])
    assert worse(rare, 9.0).outcome == "unknown"
    assert "only 10 of 100 rows differ, fewer than 20" in worse(rare, 9.0).why
    assert worse(rare, 9.0, largest=1.0).outcome == "passed"
    # All rows are worse by the same amount: whether others are, nothing tells.
    assert worse(np.full(50, 0.1), 0.2).outcome == "unknown"
    assert judge_score(rows([4.0] * 50), ScoreLimit("at_least", 3.0), alpha=0.05).outcome == "unknown"
    assert worse([*rng.normal(size=40), float("nan")], 9.0).outcome == "unknown"
    assert "nan" not in str(worse([*rng.normal(size=40), float("nan")], 9.0).numbers())


def test_groups_of_answers_are_not_counted_as_single_ones() -> None:
    values = np.repeat(np.random.default_rng(8).choice([-1.0, 0.0, 1.0], 40), 5)
    alone = worse(values, 0.5, step=1.0)
    together = judge_not_worse(
        rows(values, np.repeat(np.arange(40), 5)),
        ScoreLimit("not_worse_than", 0.5),
        alpha=0.05,
        lower_is_better=True,
        step=1.0,
    )
    assert (alone.method, alone.clusters, together.method, together.clusters) == ("exact", 200, "rows", 40)
    assert together.near - together.value > 1.9 * (alone.near - alone.value)


def test_the_worst_group_decides() -> None:
    def one(near: float, outcome: str = "passed") -> Judged:
        return Judged(outcome, near, 1.0, near, 0.01, 30, 30, 30, "rows")

    whole = one(0.0)
    up = judge_slices(["a", "b"], [one(0.2), one(0.7)], ["c"], "not_worse_than")
    assert (up.value, up.judged, up.few, up.too_few) == ("b", 2, ["c"], 1)
    down = judge_slices(["a", "b"], [one(0.2), one(0.7)], [], "at_least")
    assert down.value == "a"
    failed = judge_slices(["a", "b"], [one(1.2, "failed"), one(0.7)], [], "not_worse_than")
    assert (JudgedLimit(whole, up).outcome, JudgedLimit(whole, failed).outcome) == ("passed", "failed")
    none = judge_slices([], [], [str(number) for number in range(30)], "at_least")
    assert (JudgedLimit(whole, none).outcome, len(none.few), none.too_few) == ("unknown", 20, 30)
    assert JudgedLimit(one(2.0, "failed"), JudgedSlices(None, None, 0, [], 0)).outcome == "failed"


def test_many_tries_share_one_alpha() -> None:
    assert tried_alpha(0.05, 1) == pytest.approx(0.05 * 6 / pi**2)
    assert sum(tried_alpha(0.05, number) for number in range(1, 100_000)) == pytest.approx(0.05, rel=1e-4)
    with pytest.raises(ValueError, match="the first version is number 1"):
        tried_alpha(0.05, 0)


def test_rows_for_a_margin_are_those_of_a_one_sided_test() -> None:
    # ((1.645 + 0.842)/0.5)² and ((3.427 + 0.842)/0.5)².
    assert (rows_for(0.05), rows_for(tried_alpha(0.05, 10))) == (25, 73)
    assert rows_for(0.05, margin=0.1, deviation=0.2) == 25
    assert rows_for(0.2) == 20
    with pytest.raises(ValueError, match="give a margin above 0"):
        rows_for(0.05, margin=0.0)


def test_limits_of_the_other_kind_and_what_is_no_alpha_are_refused() -> None:
    values = rows(np.arange(30.0))
    with pytest.raises(ValueError, match="judge_not_worse compares two"):
        judge_score(values, ScoreLimit("not_worse_than", 0.1), alpha=0.05)
    with pytest.raises(ValueError, match="judge_score judges a score by itself"):
        judge_not_worse(values, ScoreLimit("at_least", 0.1), alpha=0.05, lower_is_better=True)
    with pytest.raises(ValueError, match="a margin is 0 or more"):
        worse(np.arange(30.0), -0.1)
    with pytest.raises(ValueError, match=r"an alpha lies between 0 and 0\.5"):
        worse(np.arange(30.0), 0.1, alpha=0.5)
