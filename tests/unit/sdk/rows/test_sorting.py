"""Keys of rows are given back in their order, equal ones in the order that they came in, and few at a time."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fixtures import Limits

from sdk.rows import sorting
from sdk.rows.sorting import SortedKeys

RUN = 10


@pytest.fixture(autouse=True)
def _short_runs(limits: Limits) -> None:
    limits(sorting, _RUN_KEYS=RUN, _SAMPLED=2)


def numbered(key: int) -> int:
    return key


def digested(key: int) -> bytes:
    """Bytes with zeros at both ends, in the order of the keys."""
    return b"\0" + key.to_bytes(2, "big") + b"\0"


@pytest.mark.parametrize(("dtype", "as_key"), [("u8", numbered), ("S4", digested)])
@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([0, 1, 2, 256, 512]) | st.integers(0, 600), max_size=25), max_size=8),
)
def test_any_keys_come_in_their_order(
    dtype: str, as_key: Callable[[int], int | bytes], batches: list[list[int]]
) -> None:
    keys = SortedKeys(dtype)
    given_keys: list[int] = []
    for batch in batches:
        keys.append([as_key(key) for key in batch], range(len(given_keys), len(given_keys) + len(batch)))
        given_keys += batch
    found: list[tuple[bytes, int]] = []
    borders = []
    wanted = np.dtype(dtype)
    for part, rows in keys.sorted():
        assert len(part) == len(rows) > 0
        size = part.itemsize
        found += zip([part.tobytes()[at * size :][:size] for at in range(len(part))], rows.tolist(), strict=True)
        borders.append((part[0], part[-1]))
    expected = sorted(range(len(given_keys)), key=given_keys.__getitem__)
    assert found == [(np.array([as_key(given_keys[row])], wanted).tobytes(), row) for row in expected]
    for (first, last), (begin, _) in itertools.pairwise(borders):
        # Equal keys are in one part, or alone in each of several.
        assert last < begin or first == last == begin


@pytest.mark.parametrize("kind", ["apart", "alike", "half alike"])
def test_memory_is_that_of_a_run_however_many_there_are(limits: Limits, kind: str) -> None:
    limits(sorting, _RUN_KEYS=2_000, _SAMPLED=64)
    chosen = np.random.default_rng(1)

    def most(runs: int) -> int:
        keys = SortedKeys("u8")
        tracemalloc.start()
        for run in range(runs):
            some = chosen.integers(1, 2**63, 2_000, dtype=np.uint64)
            some[:: {"apart": 2_000, "alike": 1, "half alike": 2}[kind]] = 7
            keys.append(some, range(run * 2_000, run * 2_000 + 2_000))
        largest = max(len(part) for part, _ in keys.sorted())
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert largest < 4_000
        return found

    # Of each run there are a sample and the places of the parts; its keys are 24 KB.
    assert most(100) - most(10) < 90 * 6_000
