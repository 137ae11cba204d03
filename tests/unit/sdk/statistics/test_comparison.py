"""What two models' rows say of one another: exact cases by hand, and the same answer for the same records."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise, product
from math import comb, sqrt

import numpy as np
import pytest
from support.few_rows import Draw, both_ways, covered_by_few, rarely_much
from support.paired_rows import Rows, alike, lognormal_rows

from sdk.statistics.binomial import equal_steps_interval, mcnemar_p, share_interval
from sdk.statistics.bootstrap import PairedRatio, paired_ratio, sign_flip_p, studentised_interval
from sdk.statistics.bounded import bounded_mean_interval
from sdk.statistics.comparison import compare_rows, holm, least_difference, rows_needed


@pytest.mark.parametrize(("better", "worse"), [(0, 0), (5, 0), (0, 6), (10, 2), (7, 7), (61, 39), (500, 560)])
def test_mcnemar_is_the_binomial_of_pairs_that_differ(better: int, worse: int) -> None:
    total = better + worse
    by_hand = min(1.0, 2 * sum(comb(total, k) for k in range(min(better, worse) + 1)) / 2**total)
    assert mcnemar_p(better, worse) == pytest.approx(by_hand, rel=1e-9)


@pytest.mark.parametrize(("yes", "total"), [(0, 20), (20, 20), (3, 20), (48, 100), (1, 1000)])
def test_a_share_s_interval_ends_where_as_much_is_left_in_each_tail(yes: int, total: int) -> None:
    low, high = share_interval(yes, total)

    def below(share: float, most: int) -> float:
        return sum(comb(total, k) * share**k * (1 - share) ** (total - k) for k in range(most + 1))

    assert low == 0 if yes == 0 else 1 - below(low, yes - 1) == pytest.approx(0.025, rel=1e-6)
    assert high == 1 if yes == total else below(high, yes) == pytest.approx(0.025, rel=1e-6)


def test_a_share_s_interval_is_the_published_one() -> None:
    # Clopper and Pearson 1934, 10 of 20 at 95 %.
    assert share_interval(10, 20) == pytest.approx((0.27196, 0.72804), abs=1e-5)


def test_an_exact_interval_holds_zero_where_mcnemar_shows_nothing_and_has_a_width() -> None:
    for better, worse in product(range(14), range(14)):
        low, high = equal_steps_interval(better, worse, 40)
        assert low < (better - worse) / 40 < high
        assert (low <= 0 <= high) == (mcnemar_p(better, worse) >= 0.05)


def test_sign_flips_of_equal_differences_are_mcnemar() -> None:
    rng = np.random.default_rng(0)
    values = np.array([0.5] * 10 + [-0.5] * 2 + [0.0] * 30)
    assert sign_flip_p(values, rng) == pytest.approx(mcnemar_p(10, 2))
    many = np.array([1.0] * 34 + [-1.0] * 18)
    assert sign_flip_p(many, rng, draws=200_000) == pytest.approx(mcnemar_p(34, 18), abs=0.001)


def test_few_clusters_are_flipped_in_every_way() -> None:
    values = np.array([0.3, 1.1, -0.2, 0.7, 0.05])
    sums = [abs(sum(s * v for s, v in zip(signs, values, strict=True))) for signs in product([1, -1], repeat=5)]
    by_hand = sum(total >= abs(values.sum()) - 1e-9 for total in sums) / 32
    assert sign_flip_p(values, np.random.default_rng(0)) == by_hand


def test_the_standard_error_is_that_of_paired_differences_and_of_clusters() -> None:
    differences = np.array([1.0, 2.0, 4.0, 9.0])
    found = paired_ratio(differences, np.ones(4))
    assert found.standard_error == pytest.approx(np.std(differences, ddof=1) / 2)
    grouped = paired_ratio(differences, np.ones(4), groups=np.array([0, 0, 1, 1]))
    # Clustered as by Miller: the residuals -3, -2 and 0, 5 add up within their group.
    assert grouped.standard_error == pytest.approx(sqrt(2 * (25 + 25)) / 4)


def test_tokens_are_the_weights_of_a_loss() -> None:
    found = paired_ratio(np.array([10.0, -1.0]), np.array([100.0, 1.0]))
    assert found.difference == pytest.approx(9 / 101)


def test_power_is_that_of_the_normal_distribution() -> None:
    assert least_difference(1.0) == pytest.approx(1.959964 + 0.841621, abs=1e-5)
    # Miller's example: to see 3 points of paired differences with a variance of 1/9 takes some 969 questions.
    assert rows_needed(1, sqrt(1 / 9), 0.03) == pytest.approx(969, abs=1)


@pytest.mark.parametrize("difference", [5e-324, 1e-200, 1e-9])
def test_more_rows_than_anybody_has_are_no_number(difference: float) -> None:
    assert rows_needed(48, 1e6, difference) is None
    assert rows_needed(48, 0.01, 1e-6) == pytest.approx(48 * (2.801585 * 1e4) ** 2, rel=1e-6)


def test_holm_takes_the_smallest_first() -> None:
    assert holm([0.04, 0.01, 0.03, 0.005]) == pytest.approx([0.06, 0.03, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.7, 0.9]) == [1.0, 1.0]


@pytest.mark.parametrize("draw", [lognormal_rows, alike])
def test_the_same_records_give_the_same_answer_and_the_other_order_its_mirror(
    draw: Callable[[np.random.Generator, int], Rows],
) -> None:
    rows = draw(np.random.default_rng(3), 60)
    once, again, other = (compare_rows(paired_ratio(sign * rows.sums, rows.tokens), seed="a, b") for sign in (1, 1, -1))
    assert once == again
    assert (other.difference, other.low, other.high, other.p) == (-once.difference, -once.high, -once.low, once.p)
    assert compare_rows(paired_ratio(rows.sums, rows.tokens), seed="a, c") != once


def test_too_few_clusters_have_no_verdict() -> None:
    rows = lognormal_rows(np.random.default_rng(0), 200)
    found = compare_rows(paired_ratio(rows.sums, rows.tokens, groups=np.arange(200) % 19), seed="")
    assert (found.low, found.high, found.p, found.test, found.better()) == (None, None, None, None, 0)
    assert found.clusters == 19
    assert compare_rows(paired_ratio(rows.sums, rows.tokens, groups=np.arange(200) % 20), seed="").test == "sign-flip"


def test_equal_scores_have_an_interval_where_it_is_known_how_far_apart_they_could_be() -> None:
    same = paired_ratio(np.zeros(48), np.ones(48))
    found = compare_rows(same, seed="", step=1.0)
    # The rule of three: what was not seen in 48 rows is in 7.4 % of all at most.
    assert (found.low, found.high, found.p) == (pytest.approx(-0.074, abs=1e-3), pytest.approx(0.074, abs=1e-3), 1.0)
    unknown = compare_rows(same, seed="")
    assert (unknown.low, unknown.high, unknown.p, unknown.better()) == (None, None, 1.0, 0)


def test_equal_answers_in_groups_of_unequal_size_could_differ_by_more() -> None:
    masses = np.array([1.0] * 39 + [11.0])
    found = compare_rows(paired_ratio(np.zeros(40), masses), seed="", step=1.0)
    # The largest of 40 groups has 11 of 50 rows: 11/50 · 40 times as many as one of equal groups.
    alone = compare_rows(paired_ratio(np.zeros(40), np.ones(40)), seed="", step=1.0)
    assert (found.low, found.high) == pytest.approx((alone.low * 8.8, alone.high * 8.8))
    assert compare_rows(paired_ratio(np.zeros(40), masses * [*[1] * 39, 99]), seed="", step=1.0).high == 1.0


def test_one_row_that_differs_much_does_not_make_an_interval_without_end() -> None:
    sums = np.zeros(40)
    sums[:3] = 0.2, 0.5, 0.9
    found = compare_rows(paired_ratio(sums, np.ones(40)), seed="")
    assert found.better() == 0
    assert found.low < 0.04 < found.high < 1


def test_differences_that_cancel_out_in_each_group_are_none() -> None:
    """0.3 - 0.1, 0.1 - 0.2 and 0.2 - 0.3 add up to a rounding error; twenty of them were a verdict."""
    first, second = np.array([0.3, 0.1, 0.2, 0.7, 0.1, 0.3] * 10), np.array([0.1, 0.2, 0.3, 0.1, 0.3, 0.7] * 10)
    sums = first - second
    found = compare_rows(paired_ratio(sums, np.ones(60), groups=np.repeat(np.arange(20), 3)), seed="x")
    assert abs(sums[3:6].sum()) > 0
    assert (found.difference, found.p, found.better()) == (0.0, 1.0, 0)


def test_an_adjusted_p_decides() -> None:
    found = compare_rows(paired_ratio(np.array([1.0] * 12 + [-1.0] * 2 + [0.0] * 30), np.ones(44)), seed="")
    assert found.better() == 1
    assert found.better(0.051) == 0


#: One-sided levels, down to one in a million.
TAILS = [0.3, 0.025, 0.0051, 0.005, 0.0026, 0.0025, 0.0024, 0.001, 2e-4, 1e-4, 1e-5, 1e-6]


def test_a_bootstrap_interval_only_widens_with_its_level() -> None:
    rows = lognormal_rows(np.random.default_rng(2), 24)
    found = paired_ratio(rows.sums, rows.tokens)
    inner = (found.difference, found.difference)
    for tail in TAILS:
        low, high = studentised_interval(found, np.random.default_rng(5), level=1 - 2 * tail)
        assert low <= inner[0] <= inner[1] <= high, tail
        inner = (low, high)
    assert inner[0] < found.difference < inner[1]


@pytest.mark.parametrize(("better", "worse"), [(0, 0), (1, 0), (9, 0), (4, 3), (20, 20)])
def test_an_exact_interval_only_widens_with_its_level(better: int, worse: int) -> None:
    for interval in (
        lambda level: share_interval(better, 40, level=level),
        lambda level: equal_steps_interval(better, worse, 40, level=level),
    ):
        ends = [interval(1 - 2 * tail) for tail in TAILS]
        assert all(low <= high for low, high in ends)
        assert all(after[0] <= before[0] and before[1] <= after[1] for before, after in pairwise(ends))


@pytest.mark.parametrize("values", [[], [0.2], [1.0], [0.3, -0.9], [1.0] * 19, [1.0, -1.0] * 20])
def test_an_interval_of_a_bounded_mean_only_widens_with_its_level_and_is_its_mirror_image(values: list[float]) -> None:
    numbers = np.array(values)
    inner = (numbers.sum() / 40, numbers.sum() / 40)
    for tail in TAILS:
        low, high = bounded_mean_interval(numbers, 40, level=1 - 2 * tail)
        assert -1 <= low < inner[0] <= inner[1] < high <= 1, tail
        assert bounded_mean_interval(-numbers, 40, level=1 - 2 * tail) == (-high, -low)
        inner = (low, high)


def test_an_interval_of_a_bounded_mean_ends_where_the_capital_is_forty_fold() -> None:
    """The capital by an integral over Beta(½, ½), without the sums that its own arithmetic takes."""
    numbers = np.concatenate([[0.2, 0.5, 0.9, -0.4], np.zeros(46)])
    angles = (np.arange(20_000) + 0.5) / 20_000 * np.pi / 2
    low, high = bounded_mean_interval(numbers[:4], 50)
    for end, sign in ((low, 1), (high, -1)):
        won = np.ones(len(angles))
        for number in numbers:
            won *= 1 - np.sin(angles) ** 2 * (1 - (1 + sign * number) / (1 + sign * end))
        assert won.mean() == pytest.approx(40, rel=1e-3)


@pytest.mark.parametrize("draw", [both_ways, rarely_much])
def test_a_few_rows_that_differ_are_no_sample_for_a_bootstrap(draw: Draw) -> None:
    assert covered_by_few(draw, 100, 150, bound=1.0) >= 0.94
    assert covered_by_few(draw, 100, 150, bound=None) < 0.92


def few_differ(*differences: float, rows: int = 100) -> PairedRatio:
    return paired_ratio(np.array([*differences, *[0.0] * (rows - len(differences))]), np.ones(rows))


#: Rows that the second scores better by various amounts.
LEAD = tuple(0.3 + number / 50 for number in range(8))


@pytest.mark.parametrize("differences", [LEAD, LEAD[:5], (0.4, -0.3, 0.2), (0.3,), (1.0,) * 8])
def test_a_verdict_does_not_depend_on_a_score_s_bound_where_few_rows_differ(differences: tuple[float, ...]) -> None:
    found = few_differ(*differences)
    bound, unbound = (compare_rows(found, seed="x", bound=bound) for bound in (1.0, None))
    assert (bound.p, bound.test, bound.better()) == (unbound.p, unbound.test, unbound.better())
    assert (bound.differing, bound.approximate, unbound.approximate) == (len(differences), False, True)
    assert (bound.low, bound.high) == bounded_mean_interval(np.array(differences), 100)
    assert compare_rows(few_differ(*LEAD), seed="x", bound=1.0).better() == 1


def test_a_score_of_yes_or_no_keeps_its_exact_interval_where_few_rows_differ() -> None:
    found = compare_rows(few_differ(*[1.0] * 7, -1.0), seed="", step=1.0, bound=1.0)
    assert (found.low, found.high) == equal_steps_interval(7, 1, 100)
    assert (found.approximate, found.differing) == (False, 8)


def test_a_bound_is_for_few_differing_rows_alone() -> None:
    many = few_differ(*(0.3 + number / 50 for number in range(20)))
    assert compare_rows(many, seed="x", bound=1.0) == compare_rows(many, seed="x")
    assert not compare_rows(many, seed="x").approximate


def test_the_bound_of_a_group_is_that_of_all_its_rows() -> None:
    """Of 30 groups one has 9 rows of the 38: a mean of groups is of numbers up to 9 in groups of 38/30."""
    masses = np.array([9.0] + [1.0] * 29)
    sums = np.array([0.0, 0.5, 0.25] + [0.0] * 27)
    found = compare_rows(paired_ratio(sums, masses), seed="", bound=1.0)
    ends = bounded_mean_interval(np.array([0.5, 0.25]) / 9, 30)
    assert (found.low, found.high) == pytest.approx(tuple(max(-1.0, min(1.0, end * 9 * 30 / 38)) for end in ends))
    by_hundred = compare_rows(paired_ratio(100 * sums, masses), seed="", bound=100.0)
    assert (by_hundred.low, by_hundred.high) == pytest.approx((100 * found.low, 100 * found.high))


@pytest.mark.parametrize(("level", "clusters"), [(1 - 1e-7, 24), (1 - 1e-6, 10_000)])
def test_a_level_that_takes_too_many_draws_is_refused(level: float, clusters: int) -> None:
    found = paired_ratio(np.arange(clusters, dtype=float), np.ones(clusters))
    with pytest.raises(
        ValueError, match=rf"over {clusters} clusters takes \d+ draws, which are too many; choose a lower"
    ):
        studentised_interval(found, np.random.default_rng(0), level=level)
    with pytest.raises(ValueError, match="between 0 and 1"):
        studentised_interval(found, np.random.default_rng(0), level=1.0)


def test_an_interval_needs_no_memory_for_its_draws() -> None:
    import tracemalloc

    rows = lognormal_rows(np.random.default_rng(0), 100_000)
    found = paired_ratio(rows.sums, rows.tokens)
    tracemalloc.start()
    studentised_interval(found, np.random.default_rng(0), draws=199)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40e6
