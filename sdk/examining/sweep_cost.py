"""What a sweep would cost, before it begins: trainings, rows, looks, time, and the sizes of its smallest and largest setting.

>>> saved_by_halving(16), saved_by_halving(1)
(0.825, 0.0)
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import ceil
from typing import Any

from sdk.api.workers import WorkersAPI
from sdk.examining.planning import plan_training
from sdk.formats.refs import namespace_of
from sdk.given_values import build
from sdk.objects import Registry
from sdk.rows.holdout import most_held_out
from sdk.schemas.held_out import HoldOut
from sdk.schemas.planning import Plan
from sdk.schemas.sweep_axes import Axis, Range, Setting
from sdk.schemas.sweeps import HALVING_RUNGS, RUNGS
from sdk.schemas.training import PLANNED, TrainingSpec
from sdk.schemas.watch_fields import default_interval
from sdk.schemas.wire import Wire
from sdk.submitting.given_data import GivenData, RegisteredData, find_data, sources_of
from sdk.submitting.sweep_options import SweepOptions

#: What each member does, and how many at least go on after that: shares of the steps at which halving compares them.
_RUNGS, _LEAST = (*HALVING_RUNGS, 1.0), (2, 1, 0)


class SettingCost(Wire):
    """What one training with a setting takes."""

    setting: Setting
    #: Optimiser steps; None: the rows are counted by the registry.
    steps: int | None
    #: Rows that are learnt in all steps.
    row_passes: int | None
    #: Looks at held-out rows, with the first and the last.
    looks: int | None
    adapter_size_bytes: int
    #: Of a card with it, by the plan.
    memory_bytes: int


class SweepCost(Wire):
    """What a sweep takes at most."""

    members: int
    rows: int | None
    held_out_rows: int | None
    #: Those of the held-out rows that choose; the others tell how good the winner is.
    choosing_rows: int | None
    #: The settings at the least and the greatest values.
    smallest: SettingCost
    largest: SettingCost
    #: All members together, if all train to their end.
    row_passes: int | None
    looks: int | None
    #: If every row had `max_length` tokens, at the median speed of past trainings over any base, by device.
    most_s: dict[str, float]
    #: The share of the steps that halving would save at most.
    halving_saves: float


def cost_of(
    registry: Registry,
    adapter: str,
    asked: SweepOptions,
    *,
    base: Any,
    base_namespace: str | None = None,
    published: bool | None = None,
    data: Any,
    eval_data: Any = None,
    test_data: Any = None,
) -> SweepCost:
    """Return what a sweep would cost. Raises InvalidInput, NotFound, and what a plan raises."""
    request = asked.ahead(adapter, eval_data=eval_data)
    members, spec = request.most_members, request.training.spec
    rows, held_out = _rows(registry, namespace_of(adapter) or "-", spec, data, eval_data)
    choosing = held_out
    if held_out is not None and eval_data is None and test_data is None and spec.chooses:
        choosing = held_out - _half(held_out)
    over: dict[str, Any] = {"base": base, "base_namespace": base_namespace, "published": published}
    costs = [
        _setting_cost(
            _plan(registry, over, asked, setting),
            build(TrainingSpec, **asked.fixed, **setting),
            setting,
            rows,
            choosing,
            RUNGS[asked.fields.stop_early],
        )
        for setting in (_ends(asked.settings, last=False), _ends(asked.settings, last=True))
    ]
    smallest, largest = sorted((found for found, _ in costs), key=lambda found: found.adapter_size_bytes)
    passes = None if largest.row_passes is None else members * max(one.row_passes or 0 for one in (smallest, largest))
    parameters = costs[0][1]
    most_s = (
        {}
        if passes is None
        else {
            device.device: passes * spec.max_length * parameters / device.parameter_tokens_per_s
            for device in WorkersAPI(registry.transport).devices()
            if device.parameter_tokens_per_s
        }
    )
    return SweepCost(
        members=members,
        rows=rows,
        held_out_rows=held_out,
        choosing_rows=choosing,
        smallest=smallest,
        largest=largest,
        row_passes=passes,
        looks=None if largest.looks is None else members * max(one.looks or 0 for one in (smallest, largest)),
        most_s=most_s,
        halving_saves=saved_by_halving(members),
    )


def saved_by_halving(members: int) -> float:
    """Return the share of all steps that halving saves if the best members come first, so that all others are ended."""
    steps, left, before = 0.0, members, 0.0
    for share, least in zip(_RUNGS, _LEAST, strict=True):
        steps += left * (share - before)
        left, before = min(left, least), share
    return round(1 - steps / members, 4) if members else 0.0


def _ends(settings: Mapping[str, Axis], *, last: bool) -> Setting:
    """Return the setting of all least values, or of all greatest; of values that are no numbers, the first or last."""
    found: Setting = {}
    for name, axis in settings.items():
        if isinstance(axis, Range):
            end = axis.high if last else axis.low
            found[name] = int(end) if axis.whole else end
            continue
        numbers = [value for value in axis.values if isinstance(value, int | float) and not isinstance(value, bool)]
        ordered = sorted(numbers) if len(numbers) == len(axis.values) else axis.values
        found[name] = ordered[-1 if last else 0]
    return found


def _plan(registry: Registry, over: Mapping[str, Any], asked: SweepOptions, setting: Setting) -> Plan:
    options = {name: value for name, value in (asked.fixed | setting).items() if name in {"method", *PLANNED}}
    return plan_training(registry, **over, as_given=True, **options)


def _setting_cost(
    plan: Plan,
    spec: TrainingSpec,
    setting: Setting,
    rows: int | None,
    choosing: int | None,
    rungs: Collection[float],
) -> tuple[SettingCost, int]:
    """Return what a setting costs, and the base's parameters."""
    steps = passes = looks = None
    if rows is not None:
        steps = spec.steps_over(rows)
        passes = steps * spec.effective_batch
        looks = None if choosing is None else looks_of(spec, steps, passes, choosing, rungs)
    cost = SettingCost(
        setting=setting,
        steps=steps,
        row_passes=passes,
        looks=looks,
        adapter_size_bytes=plan.adapter_size_bytes,
        memory_bytes=plan.forecast.card_bytes,
    )
    return cost, plan.parameters


def looks_of(spec: TrainingSpec, steps: int, passes: int, rows: int, rungs: Collection[float]) -> int | None:
    """Return how often a member looks at `rows` held-out rows: before, at the end, between, and at rungs; None: it goes by minutes.

    >>> looks_of(TrainingSpec(keep="best"), 10, 40, 100, ()), looks_of(TrainingSpec(keep="best"), 10, 40, 100, HALVING_RUNGS)
    (3, 5)
    """
    if spec.look_minutes is not None:
        return None
    looked = min(rows, spec.eval_rows or rows)
    every: int | None = spec.look_steps or default_interval(steps, learnt_rows=passes, held_out_rows=looked)
    if every is None and spec.chooses:
        # What is to be chosen needs something to choose from.
        every = ceil(steps / 2)
    between: set[int] = {*range(every or steps, steps, every or steps), *(ceil(share * steps) for share in rungs)}
    return 2 + sum(step < steps for step in between)


def _rows(
    registry: Registry, namespace: str, spec: TrainingSpec, data: Any, eval_data: Any
) -> tuple[int | None, int | None]:
    """Return how many rows are learnt from, and how many are held out; None if only a job can count them."""
    hold_out = spec.hold_out
    found = [_counted(_found(registry, one.given, namespace, spec, "data", hold_out)) for one in sources_of(data)]
    rows = None if None in found else sum(filter(None, found))
    if eval_data is not None:
        return rows, _counted(_found(registry, eval_data, namespace, spec, "eval_data", None))
    if rows is None or hold_out is None:
        return rows, None
    held_out = most_held_out(rows, hold_out)
    return rows - held_out, held_out


def _half(held_out: int) -> int:
    """Return how many of the held-out rows don't choose."""
    return most_held_out(held_out, HoldOut(0.5)) if held_out > 1 else 0


def _found(
    registry: Registry, given: Any, namespace: str, spec: TrainingSpec, param: str, hold_out: HoldOut | None
) -> GivenData:
    return find_data(
        registry.transport,
        given,
        namespace,
        columns=spec.columns,
        param=param,
        hold_out=hold_out,
        alone=hold_out is not None,
    )


def _counted(found: GivenData) -> int | None:
    return found.view.rows if isinstance(found, RegisteredData) else found.rows
