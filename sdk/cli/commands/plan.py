"""`adapterctl plan`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from sdk.cli.completing.kinds import BASE
from sdk.cli.support.columns import ListColumn
from sdk.cli.support.listings import Listing, listed
from sdk.cli.support.options import whose_base_options
from sdk.cli.support.output import filled, human_bytes, is_piped, print_one, render
from sdk.cli.support.spec_options import spec_options
from sdk.schemas.planning import PlanChoices
from sdk.schemas.training import PLANNED, TrainingSpec

if TYPE_CHECKING:
    from sdk.schemas.planning import DeviceForecasts, Plan


#: What a pipe gets: a number, an answer or a choice a line.
PLANNED_VALUES = Listing(
    ListColumn("kind"),
    ListColumn("name"),
    ListColumn("value"),
    ListColumn("size", importance=8),
    ListColumn("method", importance=7),
    ListColumn("location", importance=6),
    ListColumn("note", importance=5),
    key="name",
)


@click.command(name="plan")
@click.option("--base", type=BASE, required=True, help="A folder (./base), a config.json, or a registered base.")
@whose_base_options
@spec_options(PlanChoices)
@spec_options(TrainingSpec, PLANNED, of_plan=True)
@listed(PLANNED_VALUES)
def plan_command(base: str, base_namespace: str | None, published: bool | None, style: str, **given: Any) -> None:
    """Say what a training takes before it is started: memory by part, GPUs, and what to choose.

    It is arithmetic on the base's config: no weights, no GPU, no torch. A method is recommended where it takes at
    most 70 % of the GPU's memory. Forecasts were not measured on a GPU.

    \b
    Examples:
      adapterctl plan --base ./Llama-2-7b/config.json --gpu 24GB
      adapterctl plan --base ./base --method qlora --rank 16 --targets all-linear
      adapterctl plan --base SmolLM2-135M-Instruct --task code --gpu "RTX 4090"
      adapterctl plan --base ./base --gpu 24GB --format json | jq .forecast.parts
    """
    options = {name: value for name, value in given.items() if value is not None}
    found = planned(base, base_namespace, published, options)
    document = found.model_dump(mode="json") | {"forecast_card_bytes": found.forecast.card_bytes}
    print_one(
        style,
        document,
        found.verdict,
        lambda: PLANNED_VALUES.print(style, [*planned_values(found)], empty="") if is_piped() else print_plan(found),
    )


def planned(base: str, base_namespace: str | None, published: bool | None, options: dict[str, Any]) -> Plan:
    """Return the plan; a registry is opened only for a base that is registered."""
    from sdk.examining.planning import given_to_plan, plan_training

    over: Any = {"base_namespace": base_namespace, "published": published}
    if given_to_plan(base, **over).folder is not None:
        return plan_training(None, base, **over, **options)
    from sdk.cli.support.session import open_client

    with open_client() as client:
        return plan_training(client, base, **over, **options)


def planned_value(kind: str, name: str | None, value: Any = None, **more: Any) -> dict[str, Any]:
    """Return a row of `PLANNED_VALUES`."""
    none = dict.fromkeys(("size", "method", "location", "note"))
    return {**none, "kind": kind, "name": name, "value": value, **more}


def planned_values(found: Plan) -> Iterator[dict[str, Any]]:
    """Yield what a plan has found, each as a row of `PLANNED_VALUES`."""
    yield planned_value("model", found.model_type, found.parameters, note=f"parameters, by its {found.shapes_from}")
    yield planned_value(
        "method", found.method, found.trainable, note=f"trainable, {found.percent_of_base:.4f} % of the base"
    )
    if found.method != "full":
        yield planned_value("adapter", "adapter_model.safetensors", size=found.adapter_size_bytes)
    for name, count in found.trainable_by_module.items():
        yield planned_value("module", name, count)
    for part in found.forecast.parts:
        yield planned_value("part", part.name, size=part.size_bytes, location=place_of(part.where), note=part.of)
    yield planned_value("part", "together", size=found.forecast.card_bytes, location=place_of("card"))
    for fit in found.cards:
        for method in ("qlora", "lora", "full"):
            yield planned_value("GPU", fit.card, getattr(fit, method), size=fit.memory_bytes, method=method)
    yield planned_value("recommended", found.card, found.verdict, method=found.method)
    for choice in found.recommendation:
        yield planned_value("option", choice.option, choice.value, note=choice.reason)
    for device in found.learnt:
        yield planned_value("learnt", device.device, device.ratio, note=learnt_of(device, found))
    for note in found.notes:
        yield planned_value("note", None, note=note)


def place_of(where: str) -> str:
    """Return what people call the memory that a part is in; JSON has the contract's word."""
    return "GPU" if where == "card" else where


def print_plan(found: Plan) -> None:
    """Print a plan within 80 columns."""
    _fill(f"{found.model_type}, {found.parameters:,} parameters, by its {found.shapes_from}")
    share = f"{found.percent_of_base:.4f} % of the base, {found.percent_of_both:.4f} % of both"
    _fill(f"{found.method} trains {found.trainable:,}: {share}")
    if found.method != "full":
        click.echo(f"adapter on disk: {human_bytes(found.adapter_size_bytes)}")
        click.echo()
        click.echo(
            render(["module", "parameters"], [[name, f"{n:,}"] for name, n in found.trainable_by_module.items()])
        )
    click.echo()
    parts = [[part.name, human_bytes(part.size_bytes), place_of(part.where), part.of] for part in found.forecast.parts]
    click.echo(
        render(
            ["part", "takes", "in", "what"],
            [*parts, ["together", human_bytes(found.forecast.card_bytes), place_of("card"), ""]],
            cut=3,
        )
    )
    click.echo()
    # GPUs of the same size have the same answer.
    fits: dict[tuple[Any, ...], list[str]] = {}
    for fit in found.cards:
        fits.setdefault((fit.memory_bytes, fit.qlora, fit.lora, fit.full), []).append(fit.card)
    rows = [[human_bytes(size), *answers, ", ".join(names)] for (size, *answers), names in fits.items()]
    click.echo(render(["memory", "qlora", "lora", "full", "GPUs"], rows, cut=4))
    click.echo()
    click.echo(f"recommended for {found.card or 'no GPU of the table'} ({found.verdict}):")
    for choice in found.recommendation:
        _fill(f"{choice.option} {choice.value}: {choice.reason}", indent="  ")
    for device in found.learnt:
        _fill(learnt_of(device, found))
    for note in found.notes:
        _fill(f"! {note}")


def learnt_of(device: DeviceForecasts, plan: Plan) -> str:
    """Show what past trainings on a device mean for a plan."""
    took = f"{100 * device.ratio:.0f} ± {100 * device.spread:.0f} %"
    about = f"{device.jobs} trainings on {device.device} took {took} of their forecasts"
    if device.parameter_tokens_per_s is None:
        return about
    tokens_per_s = device.parameter_tokens_per_s / plan.parameters
    hours = 10**6 / tokens_per_s / 3600
    return f"{about}; at their speed, a million tokens take {hours:.2g} h of it"


def _fill(text: str, *, indent: str = "") -> None:
    click.echo(filled(text, indent, indent + "  "))
