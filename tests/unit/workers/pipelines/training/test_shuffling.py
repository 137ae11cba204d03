"""Rows come in the order that accelerate's sampler gives: an adapter is trained again to the byte."""

from __future__ import annotations

from typing import Any

import pytest
from accelerate.data_loader import SeedableRandomSampler
from support.fixtures import Limits

from workers.pipelines.training import trainer
from workers.pipelines.training.trainer import ShuffledRows


@pytest.mark.parametrize(("rows", "seed"), [(1, 0), (7, 3), (1000, 2**32 - 1)])
def test_the_order_is_that_of_accelerate(rows: int, seed: int, limits: Limits) -> None:
    limits(trainer, _PART_ROWS=64)
    ours: Any = ShuffledRows(rows, seed)
    theirs: Any = SeedableRandomSampler(range(rows), data_seed=seed)
    assert len(ours) == rows
    orders = []
    for epoch in range(3):
        orders.append(list(ours))
        assert orders[-1] == list(theirs)
        if epoch == 1:
            # As for a training that goes on from a checkpoint.
            for sampler in (ours, theirs):
                sampler.set_epoch(5)
    assert sorted(orders[0]) == list(range(rows))
