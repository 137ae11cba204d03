"""`adapterctl sweep --explain`: what a sweep would cost, without one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sdk.cli.support.output import filled, human_bytes, human_duration, print_one, say
from sdk.cli.support.records import print_facts
from sdk.cli.support.session import open_client
from sdk.errors import InvalidInput
from sdk.examining.sweep_cost import SettingCost, SweepCost, cost_of
from sdk.names import check_name
from sdk.plotting.sweeps.settings import shown
from sdk.schemas.sweeps import SweepFields
from sdk.schemas.training import TrainingSpec
from sdk.statistics.comparison import LEAST_CLUSTERS
from sdk.submitting.given_template import with_template_text
from sdk.submitting.sweep_options import divided

_GIVEN = ("base", "base_namespace", "published", "data", "eval_data", "test_data")


def show_ahead(name: str, options: Mapping[str, Any], style: str) -> None:
    """Print what a sweep would cost. Raises what a submit without rows, or a plan, raises."""
    if not options.get("base"):
        raise InvalidInput("what a sweep costs follows from its base; give --base", param="base")
    check_name(name)
    known = {*TrainingSpec.model_fields, *SweepFields.model_fields}
    given = {option: value for option, value in options.items() if option in known}
    over = {option: options.get(option) for option in _GIVEN}
    with open_client() as client:
        asked = divided(with_template_text(given, lambda: client), max_time=options.get("max_time"))
        cost = cost_of(client, name, asked, **over)
    early = asked.fields.stop_early != "none"
    print_one(style, cost, str(cost.members), lambda: _print(cost, early=early))


def _print(cost: SweepCost, *, early: bool) -> None:
    print_facts([(name, value) for name, value in _facts(cost) if value])
    if cost.choosing_rows is not None and cost.choosing_rows < LEAST_CLUSTERS:
        say(
            filled(
                f"{cost.choosing_rows} rows choose, and with fewer than {LEAST_CLUSTERS} there is no verdict; hold out more"
            )
        )
    if not early and cost.halving_saves > 0:
        say(filled(f"--stop-early halving would save up to {cost.halving_saves:.0%} of the steps"))


def _facts(cost: SweepCost) -> Iterator[tuple[str, str | None]]:
    ends = (cost.smallest, cost.largest)
    yield "members", f"{cost.members:,}"
    yield "rows", "counted when it is submitted" if cost.rows is None else f"{cost.rows:,} to learn from"
    yield "held out", _held_out(cost)
    yield "steps each", _span([None if one.steps is None else f"{one.steps:,}" for one in ends])
    yield "row passes", None if cost.row_passes is None else f"{cost.row_passes:,} at most, by all members"
    yield "looks", None if cost.looks is None else f"{cost.looks:,} at most, by all members"
    for device, seconds in cost.most_s.items():
        yield "time", f"{human_duration(seconds)} at most of {device}, at the speed of past trainings"
    for called, one in (("smallest", cost.smallest), ("largest", cost.largest)):
        yield called, _setting(one)


def _held_out(cost: SweepCost) -> str | None:
    if cost.held_out_rows is None or cost.choosing_rows is None:
        return None
    others = cost.held_out_rows - cost.choosing_rows
    return f"{cost.held_out_rows:,} rows" + (
        f": {cost.choosing_rows:,} to choose by, {others:,} that tell how good the winner is" if others else ""
    )


def _setting(one: SettingCost) -> str:
    setting = ", ".join(f"{name} {shown(value)}" for name, value in one.setting.items())
    return f"{setting}: an adapter of {human_bytes(one.adapter_size_bytes)}, {human_bytes(one.memory_bytes)} of a GPU"


def _span(values: list[str | None]) -> str | None:
    found = list(dict.fromkeys(value for value in values if value is not None))
    return " to ".join(found) or None
