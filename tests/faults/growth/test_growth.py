"""What anybody sends costs in proportion: every field of every route, what was put there before, and every file that is read.

A run tries a part of it that its seed chooses, and whatever was found before; a soak tries all of it, in about two hours.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from faults.growth.planted import PLANTED
from faults.growth.readers import READERS
from faults.growth.search import SMALLEST_BYTES, Measured, faults_of, measuring, sizes_to
from faults.growth.states import STATES
from faults.growth.values import BY_KIND
from support.soak import SOAKING

Orders = list[tuple[str, dict[str, Any]]]

#: How many orders of each sort a run that is no soak tries.
TRIED_PLACES, TRIED_READERS, TRIED_STATES = 15, 2, 1
SEED = int(os.environ.get("PYTHONHASHSEED", "0") or 0) if os.environ.get("PYTHONHASHSEED") != "random" else 0
#: What stopped a server once, and is always tried: the name of a place, and of a value.
FOUND_BEFORE = {
    ("submit_job(evaluation).request.spec.regex", "repeats of nothing"),
    ("submit_job(training).request.spec.layers_to_transform", "wide ranges"),
    ("submit_job(training).request.spec.trainable_token_indices", "wide ranges"),
}

pytestmark = [pytest.mark.soak, pytest.mark.slow, pytest.mark.timeout(4 * 3600 if SOAKING else 600)]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Measured]:
    with measuring(tmp_path_factory.mktemp("growth")) as found:
        yield found


def chosen(orders: Orders, count: int) -> Orders:
    """All orders in a soak, otherwise some."""
    return orders if SOAKING else random.Random(SEED).sample(orders, min(count, len(orders)))


def test_requests_cost_in_proportion_to_what_is_sent(measured: Measured) -> None:
    before, others = [], []
    for number, (name, kind, most_bytes) in enumerate(measured.places()):
        for value in BY_KIND[kind]:
            order = {"place": number, "kind": kind, "value": value, "sizes": sizes_to(most_bytes)}
            (before if (name, value) in FOUND_BEFORE else others).append((f"{name}, {value}", order))
    assert len(before) == len(FOUND_BEFORE)
    assert not faults_of(measured, [*before, *chosen(others, TRIED_PLACES)])


def test_requests_cost_in_proportion_to_what_was_put_there(measured: Measured) -> None:
    orders = [
        (f"{state}, {request}", {"state": state, "request": request, "sizes": sizes_to(kind.most_bytes)[-8:]})
        for state, kind in STATES.items()
        for request in kind.requests
    ]
    assert not faults_of(measured, chosen(orders, TRIED_STATES))


def test_files_cost_in_proportion_to_their_size(measured: Measured) -> None:
    orders = [
        (f"{name}, {value}", {"reader": name, "value": value, "sizes": sizes_to(reader.most_bytes)})
        for name, reader in READERS.items()
        for value in reader.files
    ]
    assert not faults_of(measured, chosen(orders, TRIED_READERS))


def test_sizes_double_from_the_smallest_to_what_is_allowed() -> None:
    sizes = sizes_to(1024 * 1024)
    assert sizes[0] < 2 * SMALLEST_BYTES
    assert sizes[-1] <= 1024 * 1024
    assert all(after in (2 * before, 2 * before + 1) for before, after in pairwise(sizes))


@pytest.mark.parametrize("work", PLANTED)
def test_search_finds_a_planted_fault(work: str, tmp_path: Path) -> None:
    with measuring(tmp_path) as measured:
        (found,) = faults_of(measured, [(work, {"planted": work, "sizes": sizes_to(64 * 1024)})])
    assert work in found
