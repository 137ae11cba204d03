"""Rows come in the order that accelerate's sampler gives: an adapter is trained again to the byte."""

from __future__ import annotations

import itertools
import tracemalloc
from typing import Any

import pytest
from accelerate.data_loader import SeedableRandomSampler

from workers.pipelines.training.loop import shuffled


@pytest.mark.parametrize(
    ("rows", "batch", "seed"), [(1, 1, 0), (7, 3, 3), (7, 7, 3), (7, 20, 3), (1000, 16, 2**32 - 1)]
)
def test_the_order_is_that_of_accelerate_from_whichever_step(rows: int, batch: int, seed: int) -> None:
    sampler: Any = SeedableRandomSampler(range(rows), data_seed=seed)
    expected: list[list[int]] = []
    for _epoch in range(3):
        order = list(sampler)
        expected += [order[start : start + batch] for start in range(0, rows, batch)]
    for start in {0, 1, len(expected) // 3, len(expected) - 1}:
        found = shuffled(rows, batch=batch, seed=seed, start=start)
        assert list(itertools.islice(found, len(expected) - start)) == expected[start:]


def test_no_list_of_all_rows_is_made() -> None:
    tracemalloc.start()
    steps = list(itertools.islice(shuffled(1_000_000, batch=16, seed=0), 3))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [len(step) for step in steps] == [16, 16, 16]
    assert peak_bytes < 100_000
