"""The learning rate at each step: against transformers' and torch's own where they have the same formula."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from transformers import get_cosine_with_hard_restarts_schedule_with_warmup as of_restarts
from transformers import get_inverse_sqrt_schedule as of_inverse_sqrt
from transformers import get_wsd_schedule as of_wsd

from sdk.schemas.schedules import SCHEDULES, ScheduleName
from sdk.schemas.training import TrainingSpec
from workers.pipelines.errors import PipelineError
from workers.pipelines.training.optimising import Schedule, schedule_of

TOTAL, WARMUP = 100, 8


def theirs(make: Callable[..., Any], **options: Any) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer, **options)
    return [float(scheduler.lr_lambdas[0](step)) for step in range(TOTAL)]


def ours(kind: ScheduleName, *more: Any, warmup: int = WARMUP) -> list[float]:
    schedule = Schedule(kind, warmup, TOTAL, *more)
    shares = [schedule.share(step) for step in range(TOTAL)]
    # A pure function of the step: another order, and once more.
    assert [schedule.share(step) for step in reversed(range(TOTAL))] == shares[::-1]
    return shares


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (
            partial(ours, "cosine_restarts", 0.0, 4),
            partial(theirs, of_restarts, num_warmup_steps=WARMUP, num_training_steps=TOTAL, num_cycles=4),
        ),
        (
            partial(ours, "wsd", 0.1, 1, 0.3),
            partial(
                theirs, of_wsd, num_warmup_steps=WARMUP, num_decay_steps=30, num_training_steps=TOTAL,
                decay_type="1-sqrt", min_lr_ratio=0.1,
            ),
        ),
        (partial(ours, "inverse_sqrt"), partial(theirs, of_inverse_sqrt, num_warmup_steps=WARMUP)),
    ],
    ids=["cosine_restarts", "wsd", "inverse_sqrt"],
)  # fmt: skip
def test_after_the_warm_up_a_schedule_is_transformers_own(
    found: Callable[[], list[float]], expected: Callable[[], list[float]]
) -> None:
    """Theirs begins a warm-up at a rate of zero."""
    assert found()[WARMUP:] == pytest.approx(expected()[WARMUP:], rel=1e-12)


def test_restarts_are_torch_s_down_to_a_floor() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=TOTAL // 5, eta_min=0.2)
    expected = []
    for _ in range(TOTAL):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert ours("cosine_restarts", 0.2, 5, warmup=0) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("steps", [7, 49, 93, 360])
def test_each_cycle_begins_at_the_peak_however_division_rounds(steps: int) -> None:
    for cycles in (each for each in range(1, steps + 1) if steps % each == 0):
        schedule = Schedule("cosine_restarts", 3, 3 + steps, 0.0, cycles)
        length = steps // cycles
        shares = [schedule.share(3 + step) for step in range(steps)]
        assert shares[::length] == [1.0] * cycles
        assert min(shares) > 0
        assert shares[:length] * cycles == shares
        assert schedule.share(3 + steps) == 0.0


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize(("warmup", "total"), [(0, 1), (0, 10), (3, 10), (9, 10)])
@pytest.mark.parametrize("floor", [0.0, 0.25])
def test_no_step_has_the_rate_zero_or_one_below_the_floor_and_the_peak_is_reached(
    kind: ScheduleName, warmup: int, total: int, floor: float
) -> None:
    shares = [Schedule(kind, warmup, total, floor, 1, 0.5).share(step) for step in range(total)]
    assert all(share > 0 for share in shares)
    assert max(shares) == shares[warmup] == 1.0
    assert shares[: warmup + 1] == sorted(shares[: warmup + 1])
    assert shares[warmup:] == sorted(shares[warmup:], reverse=True)
    assert min(shares[warmup:]) >= floor


def test_a_decay_begins_where_its_share_says_and_never_before_the_warm_up_ends() -> None:
    shares = ours("wsd", 0.0, 1, 0.25)
    assert shares[WARMUP:76] == [1.0] * (76 - WARMUP)
    assert shares[76:] == pytest.approx([1 - math.sqrt(step / 25) for step in range(1, 25)])
    # A warm-up is rounded up, and so is a decay.
    schedule = Schedule("wsd", 2, 3, 0.0, 1, 0.5)
    assert [schedule.share(step) for step in range(4)] == [1 / 3, 2 / 3, 1.0, 0.0]


def test_more_cycles_than_steps_are_refused_where_rows_decide_how_many_there_are() -> None:
    spec = TrainingSpec(schedule="cosine_restarts", cycles=9, epochs=1, batch_size=2, grad_accum=1, warmup_ratio=0.2)
    assert schedule_of(spec, 24).cycles == 9
    with pytest.raises(
        PipelineError, match="9 cycles need 9 steps after the warm-up, and there are 8; give at most 8 cy"
    ) as caught:
        schedule_of(spec, 20)
    assert caught.value.reason == "spec"
