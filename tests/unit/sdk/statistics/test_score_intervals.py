"""Intervals of single scores: exact for shares, else as numpy computes them, and they cover what they say."""

from __future__ import annotations

import numpy as np
import pytest

from sdk.statistics.binomial import share_interval
from sdk.statistics.score_intervals import LEAST_ROWS, Moments


def moments(sums: list[float], masses: list[float] | None = None) -> Moments:
    found = Moments()
    for total, mass in zip(sums, masses or [1.0] * len(sums), strict=True):
        found.add(total, mass)
    return found


def test_share_has_the_exact_interval() -> None:
    assert moments([1.0] * 3 + [0.0] * 7).interval(largest=1.0) == share_interval(3, 10)


def test_ratio_has_the_standard_error_of_its_rows() -> None:
    rng = np.random.default_rng(0)
    masses = rng.integers(1, 30, 200).astype(float)
    sums = masses * rng.lognormal(size=200)
    low, high = moments(list(sums), list(masses)).interval() or (0.0, 0.0)
    ratio = sums.sum() / masses.sum()
    error = np.sqrt(200 / 199 * ((sums - ratio * masses) ** 2).sum()) / masses.sum()
    assert (low + high) / 2 == pytest.approx(ratio)
    assert (high - low) / 2 == pytest.approx(1.972 * error, rel=1e-3)


def test_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    ends = [moments(list(rng.normal(3.0, 1.0, 20))).interval() or (0.0, 0.0) for _ in range(400)]
    assert 0.92 <= np.mean([low <= 3.0 <= high for low, high in ends]) <= 0.98


def test_few_rows_and_none_have_no_interval() -> None:
    assert moments([]).interval() is None
    assert moments([0.5] * (LEAST_ROWS - 1)).interval() is None
    assert moments([0.5] * LEAST_ROWS).interval(largest=1.0) == (0.5, 0.5)


def test_interval_stays_among_the_scores_that_there_can_be() -> None:
    low, high = moments([0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.1]).interval(largest=1.0) or (-1.0, 2.0)
    assert low == 0.0
    assert high < 1.0
