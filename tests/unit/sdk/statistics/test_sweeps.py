"""What the scores of a sweep say: numbers by hand, published ones, and every odd sweep."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from math import inf, nan, sqrt

import numpy as np
import pytest

from sdk.statistics.selection import Chances
from sdk.statistics.sweeps import SettingScores, SweepJudgement, judge


def scores(means: list[float], *, seeds: int = 3, rows: int = 200, noise: float = 0.05, seed: int = 0) -> np.ndarray:
    """(settings, seeds, rows): rows that settings share, with some noise of each setting and of each training."""
    rng = np.random.default_rng(seed)
    shape = (len(means), seeds, rows)
    own = rng.normal(0, noise, (len(means), 1, rows)) + rng.normal(0, noise, shape)
    between: np.ndarray = rng.normal(0, 0.002, (len(means), seeds, 1))
    return np.array(means)[:, None, None] + rng.normal(0, 0.5, rows) + own + between


def judged(
    sums: list[np.ndarray] | np.ndarray,
    masses: np.ndarray | None = None,
    *,
    margin: float = 0.02,
    lower_is_better: bool = True,
    bound: float | None = None,
    draws: int = 10_000,
) -> SweepJudgement:
    masses = np.ones(sums[0].shape[1]) if masses is None else masses
    settings = [SettingScores(each, masses) for each in sums]
    return judge(settings, margin=margin, lower_is_better=lower_is_better, seed="a sweep", bound=bound, draws=draws)


def outcomes(found: SweepJudgement) -> list[str]:
    return [one.outcome for one in found.settings]


@pytest.mark.parametrize(
    ("settings", "freedom", "range_"),
    # The 95 % quantiles of the studentised range, as in Pearson and Hartley, table 29.
    [
        (2, 10, 3.151),
        (5, 10, 4.654),
        (10, 10, 5.599),
        (5, 5, 5.673),
        (10, 20, 5.008),
        (3, inf, 3.314),
        (10, inf, 4.474),
    ],
)
def test_the_largest_difference_by_chance_is_tukey_s(settings: int, freedom: float, range_: float) -> None:
    found = Chances(settings, row_freedom=freedom, seed="0").apart(settings, 1.0)
    assert found.critical(0.05) == pytest.approx(range_ / sqrt(2), rel=0.03)


@pytest.mark.parametrize(("others", "value"), [(1, 1.960), (2, 2.212), (4, 2.442), (9, 2.686)])
def test_the_lead_over_a_named_setting_by_chance_is_dunnett_s(others: int, value: float) -> None:
    found = Chances(10, row_freedom=inf, seed="0").ahead(others, 1.0)
    assert found.critical(0.025) == pytest.approx(value, rel=0.03)


def test_a_chance_is_below_alpha_exactly_beyond_the_critical_difference() -> None:
    chance = Chances(4, row_freedom=30, seed="0").apart(4, 0.5, seed_freedom=8)
    critical = chance.critical(0.05)
    assert chance.p(critical) >= 0.05 > chance.p(critical + 1e-6)


def test_a_score_and_its_error_are_those_of_rows_and_seeds() -> None:
    sums = scores([1.0, 1.1], seeds=3)
    masses = np.random.default_rng(1).integers(1, 50, 200).astype(float)
    best, other = judged(sums * masses, masses).settings
    means = (sums * masses).sum(axis=2) / masses.sum()
    assert best.score == pytest.approx(means[0].mean(), rel=1e-12)
    variance = ((means - means.mean(axis=1, keepdims=True)) ** 2).sum() / 4
    residuals = (sums[0].mean(axis=0) - means[0].mean()) * masses
    row_part = sqrt(200 / 199 * (residuals**2).sum()) / masses.sum()
    assert best.standard_error == pytest.approx(sqrt(row_part**2 + variance / 3), rel=1e-9)
    # A difference's row part is that of paired rows: what both settings find hard cancels out.
    between = (sums[1] - sums[0]).mean(axis=0)
    residuals = (between - np.average(between, weights=masses)) * masses
    error = sqrt(200 / 199 * (residuals**2).sum() / masses.sum() ** 2 + 2 * variance / 3)
    assert other.difference == pytest.approx(means[1].mean() - means[0].mean(), rel=1e-9)
    assert other.low is not None
    assert other.high is not None
    assert other.can_show is not None
    assert other.difference - other.low > 1.96 * error
    assert other.high - other.difference > 1.96 * error
    assert other.can_show > 2.8 * error


def test_worse_as_good_and_not_told_apart_follow_from_the_interval() -> None:
    sums = scores([0.99, 1.0, 1.05, 1.02])
    found = judged(sums, margin=0.02)
    assert outcomes(found) == ["best", "as good", "worse", "worse"]
    assert found.seed_freedom == 8
    for one in found.settings[1:]:
        assert one.low is not None
        assert one.high is not None
        assert one.p is not None
        assert (one.low > 0) == (one.p < 0.05)
        assert (one.outcome == "as good") == (one.high < 0.02)
    near = scores([0.998, 1.0])
    assert outcomes(judged(near, margin=0.004)) == ["best", "not told apart"]
    # Within a wide margin even what is shown to be worse is as good.
    wide = judged(sums, margin=0.2)
    assert outcomes(wide) == ["best", "as good", "as good", "as good"]
    assert wide.settings[2].p is not None
    assert wide.settings[2].p < 0.05


def test_higher_is_better_is_the_mirror_image() -> None:
    sums = scores([0.5, 0.42, 0.5])
    found, mirrored = judged(sums, lower_is_better=False), judged(-sums)
    assert (found.best, outcomes(found)) == (mirrored.best, outcomes(mirrored))
    for one, other in zip(found.settings, mirrored.settings, strict=True):
        assert one == replace(other, score=one.score)
        assert one.score == pytest.approx(-(other.score or 0))


def test_one_seed_leaves_the_seed_part_unknown_and_a_second_of_any_setting_tells_it() -> None:
    sums = scores([1.0, 1.1, 1.2])
    alone = judged(sums[:, :1])
    assert (alone.seed_deviation, alone.seed_freedom) == (None, 0)
    assert outcomes(alone) == ["best", "worse", "worse"]
    some = judged([sums[0], sums[1, :1], sums[2, :2]])
    assert some.seed_freedom == 3
    assert [one.seeds for one in some.settings] == [3, 1, 2]


def test_a_setting_that_diverges_with_some_seeds_does_not_make_others_uncertain() -> None:
    sums = scores([1.0, 1.05, 1.0, 1.3])
    sums[3] += np.array([0.0, 2.0, 9.0])[:, None]
    found = judged(sums)
    assert found.unsteady == [3]
    assert found.seed_freedom == 6
    assert outcomes(found)[1] == "worse"
    # By its own three trainings, it may be no worse.
    assert (found.settings[3].outcome, found.settings[3].score) == ("not told apart", pytest.approx(4.97, abs=0.1))
    # Two settings don't tell which of them is usual.
    assert judged(sums[[0, 3]]).unsteady == []


@pytest.mark.parametrize("bad", [nan, inf, -inf])
def test_a_setting_of_which_a_score_is_not_finite_has_failed(bad: float) -> None:
    sums = scores([1.0, 1.1])
    sums[1, 0, 7] = bad
    found = judged(sums)
    assert outcomes(found) == ["best", "failed"]
    assert (found.settings[1].seeds, found.settings[1].score) == (0, None)
    sums[0, :, 3] = bad
    assert (judged(sums).best, outcomes(judged(sums))) == (None, ["failed", "failed"])


def test_settings_without_scores_have_failed_and_count_for_nothing() -> None:
    sums, none = scores([1.1, 1.0]), np.empty((0, 200))
    found = judged([none, sums[0], none, sums[1]])
    assert (found.best, outcomes(found)) == (3, ["failed", "worse", "failed", "best"])
    assert [found.settings[1], found.settings[3]] == judged(sums).settings
    assert judged([none, none]).best is None


def test_many_settings_take_little_memory_beside_their_scores() -> None:
    sums = scores([1.0 + place / 100 for place in range(50)], seeds=1, rows=5_000).astype(np.float32)
    masses = np.ones(5_000)
    tracemalloc.start()
    found = judged(sums, masses, draws=100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.best == 0
    assert peak < sums.nbytes


def test_a_single_setting_is_the_best() -> None:
    found = judged(scores([1.0]))
    assert (found.best, outcomes(found)) == (0, ["best"])
    assert found.settings[0].difference is None
    assert found.settings[0].standard_error is not None


def test_fewer_than_twenty_rows_tell_nothing() -> None:
    found = judged(scores([2.0, 1.0], rows=19))
    assert (found.best, outcomes(found), found.enough_rows) == (1, ["not told apart", "best"], False)
    assert found.settings[0].difference == pytest.approx(1.0, abs=0.1)
    assert (found.settings[0].low, found.settings[0].p, found.settings[1].standard_error) == (None, None, None)
    # Rows without weight are none.
    masses = np.array([1.0] * 19 + [0.0])
    assert not judged(scores([2.0, 1.0], rows=20), masses).enough_rows


def test_rows_of_which_few_weigh_most_tell_what_is_worse_and_nothing_that_is_as_good() -> None:
    masses = np.array([1.0] * 19 + [8.0])
    sums = scores([1.0, 1.01, 2.0], rows=20)
    found = judged(sums * masses, masses, margin=0.5)
    assert found.equal_rows == pytest.approx(27**2 / 83)
    assert outcomes(found) == ["best", "not told apart", "worse"]
    assert found.settings[1].high is not None
    assert found.settings[1].high < 0.5
    assert outcomes(judged(sums, margin=0.5)) == ["best", "as good", "worse"]


def test_p_is_how_often_the_best_of_all_is_so_far_ahead_of_what_is_in_question() -> None:
    found = judged(scores([1.0, 1.012, 1.004, 1.02, 1.008], seeds=1, noise=0.04), margin=0.001)
    others = sorted((one for one in found.settings if one.outcome != "best"), key=lambda one: -(one.difference or 0))
    chances, p = Chances(5, row_freedom=199, seed="a sweep"), 0.0
    for step, one in enumerate(others):
        assert one.difference is not None
        assert one.difference_error is not None
        chance = chances.apart(5 - step, 1.0)
        p = max(p, chance.p(one.difference / one.difference_error))
        assert one.p == pytest.approx(p, abs=0.002)
    assert others[0].p is not None
    assert 0 < others[0].p < others[-1].p
    assert judged(scores([2.0, 1.0], rows=20)).enough_rows


def test_equal_scores_are_as_good_as_the_first_of_them() -> None:
    sums = scores([1.0], seeds=1)[0]
    found = judged([sums + 0.5, sums, sums, sums])
    assert (found.best, outcomes(found)) == (1, ["worse", "best", "as good", "as good"])
    assert (found.settings[2].difference, found.settings[2].low, found.settings[2].high) == (0, 0, 0)
    # Added up in another order, a sum differs in its last bit.
    assert judged([sums, sums[:, ::-1], sums]).best == 0


def test_answers_of_yes_and_no_that_hardly_differ_are_as_good_only_over_enough_rows() -> None:
    for rows, outcome in ((300, "not told apart"), (1000, "as good")):
        sums = np.ones((2, 1, rows))
        assert outcomes(judged(sums, lower_is_better=False, margin=0.01, bound=1.0)) == ["best", outcome]
    some = np.ones((2, 1, 1000))
    some[1, 0, :5] = 0
    found = judged(some, lower_is_better=False, margin=0.01, bound=1.0)
    assert (outcomes(found), found.settings[1].differing) == (["best", "not told apart"], 5)
    # It isn't known by how much others could differ.
    unbounded = judged(some, lower_is_better=False, margin=0.01).settings[1]
    assert (unbounded.outcome, unbounded.p, unbounded.differing) == ("not told apart", None, 5)


def test_a_thousand_settings_are_judged() -> None:
    means = [1.0] * 500 + [1.2] * 500
    found = judged(scores(means, seeds=1, rows=100, noise=0.02), margin=0.05, draws=1_000)
    assert found.best in range(500)
    assert set(outcomes(found)[500:]) == {"worse"}
    assert set(outcomes(found)[:500]) == {"best", "as good"}


def test_the_same_seed_gives_the_same_answer_in_whatever_order() -> None:
    sums = scores([1.0, 1.01, 1.02, 1.05])
    found = judged(sums)
    assert found == judged(sums)
    assert judged(sums[::-1]).settings == found.settings[::-1]


@pytest.mark.parametrize(
    ("masses", "margin"),
    [(np.ones(199), 0.02), (np.zeros(200), 0.02), (-np.ones(200), 0.02), (np.full(200, nan), 0.02), (np.ones(200), 0.0), (np.ones(200), nan)],
)  # fmt: skip
def test_rows_without_weight_and_a_margin_of_nothing_are_refused(masses: np.ndarray, margin: float) -> None:
    with pytest.raises(ValueError, match=r"weigh|margin|rows"):
        judged(scores([1.0, 1.1]), masses, margin=margin)


def test_settings_over_different_rows_are_refused() -> None:
    one, two = scores([1.0, 1.1])
    with pytest.raises(ValueError, match="same rows"):
        judge([SettingScores(one, np.ones(200)), SettingScores(two, np.full(200, 2.0))], margin=1, lower_is_better=True, seed="")  # fmt: skip
    with pytest.raises(ValueError, match="without settings"):
        judge([], margin=1, lower_is_better=True, seed="")
