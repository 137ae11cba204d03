"""Intervals hold the true difference as often as they say, and models that are one are not told apart.

The distribution is `support.paired_rows.lognormal_rows`. In full 2,000 samples are drawn of each; a share of them finds the
mistakes that are planted here.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from support.few_rows import Draw, both_ways, covered_by_few, rarely_much
from support.paired_rows import TRUE_DIFFERENCE, Rows, alike, lognormal_rows
from support.soak import scale

from sdk.statistics.bootstrap import PairedRatio, paired_ratio, studentised_interval
from sdk.statistics.comparison import compare_rows

pytestmark = pytest.mark.slow

Interval = Callable[[Rows, np.random.Generator], tuple[float, float]]


def ours(rows: Rows, rng: np.random.Generator) -> tuple[float, float]:
    return studentised_interval(paired_ratio(rows.sums, rows.tokens, groups=rows.groups), rng)


def unweighted(rows: Rows, rng: np.random.Generator) -> tuple[float, float]:
    return studentised_interval(paired_ratio(rows.sums / rows.tokens, np.ones(len(rows.sums))), rng)


def unclustered(rows: Rows, rng: np.random.Generator) -> tuple[float, float]:
    return studentised_interval(paired_ratio(rows.sums, rows.tokens), rng)


def percentile(rows: Rows, rng: np.random.Generator) -> tuple[float, float]:
    found: PairedRatio = paired_ratio(rows.sums, rows.tokens, groups=rows.groups)
    chosen = rng.integers(0, found.clusters, size=(1999, found.clusters))
    drawn = np.sort(found.sums[chosen].sum(axis=1) / found.masses[chosen].sum(axis=1))
    return float(drawn[49]), float(drawn[-50])


def covered(interval: Interval, rows: int, group_rows: int, samples: int) -> float:
    """How often an interval holds the true difference."""
    rng = np.random.default_rng(rows + group_rows)
    held = 0
    for _ in range(samples):
        low, high = interval(lognormal_rows(rng, rows, group_rows=group_rows), rng)
        held += low <= TRUE_DIFFERENCE <= high
    return held / samples


@pytest.mark.soak
@pytest.mark.parametrize("group_rows", [0, 2], ids=["rows", "groups"])
@pytest.mark.parametrize(("rows", "least", "most"), [(30, 0.88, 1.0), (100, 0.91, 1.0), (1000, 0.93, 0.97)])
def test_an_interval_holds_the_true_difference_as_often_as_it_says(
    rows: int, least: float, most: float, group_rows: int
) -> None:
    share = covered(ours, rows, group_rows, scale(2000, share=4 if rows < 1000 else 20))
    print(f"covered at {rows} rows, groups of up to {group_rows}: {share:.4f}")
    assert least <= share <= most


@pytest.mark.parametrize(
    ("mistake", "rows", "group_rows", "samples", "least"),
    [(percentile, 30, 0, 800, 0.905), (unweighted, 1000, 0, 60, 0.9), (unclustered, 100, 10, 200, 0.91)],
)
def test_a_mistake_would_be_found(mistake: Interval, rows: int, group_rows: int, samples: int, least: float) -> None:
    assert covered(ours, rows, group_rows, samples) >= least
    assert covered(mistake, rows, group_rows, samples) < least


@pytest.mark.soak
@pytest.mark.parametrize("group_rows", [0, 2], ids=["rows", "groups"])
@pytest.mark.parametrize("rows", [30, 100, 1000])
def test_a_model_is_not_better_than_itself(rows: int, group_rows: int) -> None:
    rng = np.random.default_rng(rows + group_rows)
    samples, told = scale(2000, share=10 if rows < 1000 else 40), 0
    for number in range(samples):
        drawn = alike(rng, rows, group_rows=group_rows)
        told += (
            compare_rows(paired_ratio(drawn.sums, drawn.tokens, groups=drawn.groups), seed=str(number)).better() != 0
        )
    print(f"no difference at {rows} rows, groups of up to {group_rows}: {1 - told / samples:.4f}")
    assert told / samples <= 0.06


@pytest.mark.soak
@pytest.mark.parametrize("rows", [30, 100, 1000])
def test_answers_of_yes_and_no_are_not_told_apart_either(rows: int) -> None:
    rng = np.random.default_rng(rows)
    samples, told = scale(2000, share=10), 0
    for _ in range(samples):
        scores = (rng.random(size=(2, rows)) < rng.beta(2, 1, size=rows)).astype(float)
        told += compare_rows(paired_ratio(scores[1] - scores[0], np.ones(rows)), seed="", step=1.0).better() != 0
    print(f"no difference of yes and no at {rows} rows: {1 - told / samples:.4f}")
    assert told / samples <= 0.06


@pytest.mark.soak
@pytest.mark.parametrize("lead", [0.5, 0.8, 1.0])
@pytest.mark.parametrize(("rows", "least", "most"), [(30, 0.88, 1.0), (100, 0.91, 1.0), (1000, 0.93, 0.97)])
def test_the_exact_interval_holds_the_true_difference(rows: int, least: float, most: float, lead: float) -> None:
    """Of rows a third differs, and of those the share `lead` is for the second."""
    rng = np.random.default_rng(rows)
    samples, held = scale(2000, share=5), 0
    for _ in range(samples):
        scores = (rng.random(rows) < 1 / 3) * np.where(rng.random(rows) < lead, 1.0, -1.0)
        found = compare_rows(paired_ratio(scores, np.ones(rows)), seed="", step=1.0)
        held += found.low <= (2 * lead - 1) / 3 <= found.high
    print(f"exact interval at {rows} rows, {lead:.0%} for the second: {held / samples:.4f}")
    assert least <= held / samples <= most


@pytest.mark.parametrize("lead", [0.5, 0.8, 1.0])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_answers_in_groups_of_unequal_size_are_not_of_equal_steps(share: float, lead: float) -> None:
    """One row in a `share` of all groups differs, of which `lead` is for the second; one group in five has 20 rows."""
    rng = np.random.default_rng(5)
    samples, groups, held = 150, 100, 0
    true = share * (2 * lead - 1) / (0.2 * 20 + 0.8)
    for number in range(samples):
        masses = np.where(rng.random(groups) < 0.2, 20.0, 1.0)
        sums = (rng.random(groups) < share) * np.where(rng.random(groups) < lead, 1.0, -1.0)
        found = compare_rows(paired_ratio(sums, masses), seed=str(number), step=1.0)
        assert found.test == "mcnemar"
        assert found.low < found.high
        held += found.low <= true <= found.high
    assert held / samples >= 0.9


@pytest.mark.soak
@pytest.mark.parametrize("rows", [40, 100, 400])
@pytest.mark.parametrize("draw", [both_ways, rarely_much])
def test_an_interval_by_bounds_holds_the_true_difference_where_few_rows_differ(draw: Draw, rows: int) -> None:
    samples = scale(2000, share=20)
    by_bounds, drawn = (covered_by_few(draw, rows, samples, bound=bound) for bound in (1.0, None))
    print(f"5 of {rows} rows differ, {draw.__name__}: by bounds {by_bounds:.4f}, bootstrap {drawn:.4f}")
    assert by_bounds >= 0.94
