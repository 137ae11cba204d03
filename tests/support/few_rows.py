"""Rows of two models that hardly ever differ, and how often an interval holds their true difference."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sdk.statistics.comparison import compare_rows, paired_ratio

#: How many rows differ, in the mean.
DIFFERING = 5

#: By how much rows differ where they do, (rows,), in [-1, 1].
Draw = Callable[[np.random.Generator, int], np.ndarray]


def both_ways(rng: np.random.Generator, rows: int) -> np.ndarray:
    return rng.uniform(-1, 1, rows)


def rarely_much(rng: np.random.Generator, rows: int) -> np.ndarray:
    return np.where(rng.random(rows) < 0.1, 1.0, 0.05)


#: The mean of what is drawn.
MEANS = {both_ways: 0.0, rarely_much: 0.1 * 1.0 + 0.9 * 0.05}


def covered_by_few(draw: Draw, rows: int, samples: int, *, bound: float | None) -> float:
    """How often an interval holds the true difference; samples in which no row differs, and none is known, do."""
    rng = np.random.default_rng(rows)
    true, held = DIFFERING / rows * MEANS[draw], 0
    for number in range(samples):
        sums = draw(rng, rows) * (rng.random(rows) < DIFFERING / rows)
        found = compare_rows(paired_ratio(sums, np.ones(rows)), seed=str(number), bound=bound)
        held += found.low is None or found.low <= true <= found.high
    return held / samples
