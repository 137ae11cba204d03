"""Which members go on: decided by those that came before alone, and answered alike each time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.sweeps.deciding.stopping import (
    HALVING_RUNGS,
    LEAST_OTHERS,
    MEDIAN_RUNGS,
    halving_goes_on,
    median_goes_on,
)

Rule = Callable[[Sequence[float], int], bool]
RULES = pytest.mark.parametrize("goes_on", [halving_goes_on, median_goes_on])
LOSSES = st.lists(st.floats(0, 10) | st.sampled_from([math.nan, math.inf]), min_size=1, max_size=24)


@RULES
@given(losses=LOSSES, later=LOSSES)
def test_members_that_come_later_change_no_answer(goes_on: Rule, losses: list[float], later: list[float]) -> None:
    for at in range(len(losses)):
        assert goes_on(losses, at) == goes_on(losses[: at + 1], at) == goes_on(losses[: at + 1] + later, at)


@RULES
@given(losses=LOSSES)
def test_the_best_so_far_goes_on_and_no_number_never_does(goes_on: Rule, losses: list[float]) -> None:
    for at, own in enumerate(losses):
        if not math.isfinite(own):
            assert not goes_on(losses, at)
        elif all(own <= other for other in losses[:at] if math.isfinite(other)):
            assert goes_on(losses, at)


@pytest.mark.parametrize(("rung", "fifths", "least", "near"), [(0, 8, 2, 0.03), (1, 5, 1, 0.01)])
@given(losses=st.lists(st.floats(0.1, 10), min_size=1, max_size=24, unique=True))
def test_halving_keeps_the_best_of_those_so_far_and_whoever_is_near(
    rung: int, fifths: int, least: int, near: float, losses: list[float]
) -> None:
    for at, own in enumerate(losses):
        kept = sorted(losses[: at + 1])[: max(least, fifths * (at + 1) // 20)]
        assert halving_goes_on(losses, at, rung) == (own <= kept[-1] * (1 + near))


@given(st.lists(st.floats(0, 10), min_size=1, max_size=24))
def test_the_median_of_the_others_ends_nobody_before_there_are_four(losses: list[float]) -> None:
    for at, own in enumerate(losses):
        assert median_goes_on(losses, at) == (at < LEAST_OTHERS or own <= median(losses[:at]))


def test_sixteen_members_worst_first_all_go_on_and_best_first_only_the_first() -> None:
    falling, rising = [16.0 - at for at in range(16)], [1.0 + at for at in range(16)]
    assert [halving_goes_on(falling, at) for at in range(16)] == [True] * 16
    for rung, first in enumerate((2, 1)):
        assert [halving_goes_on(rising, at, rung) for at in range(16)] == [True] * first + [False] * (16 - first)
    assert [median_goes_on(rising, at) for at in range(16)] == [True] * 4 + [False] * 12


def test_rungs_lie_within_the_steps() -> None:
    for rungs in (HALVING_RUNGS, MEDIAN_RUNGS):
        assert list(rungs) == sorted(set(rungs))
        assert 0 < rungs[0] <= rungs[-1] < 1
