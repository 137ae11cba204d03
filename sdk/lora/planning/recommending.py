"""Which options to choose, with one reason each.

>>> task_options("code")
{'rank': 32, 'targets': 'all-linear'}
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sdk.lora.planning.cards import Card
from sdk.schemas.planning import Choice, Forecast, PlanMethod, Task
from sdk.schemas.training import TrainingSpec


@dataclass(frozen=True)
class _Customary:
    rank: int
    targets: str
    why_rank: str
    why_targets: str


_ATTENTION = "attention is what most adapters need; all-linear holds more, and overfits small data sooner"
#: Customary ranks and targets by what is to be learnt.
_TASKS: Mapping[str, _Customary] = {
    "instruct": _Customary(8, "attention", "4 to 8 are customary for simple instructions", _ATTENTION),
    "format": _Customary(4, "attention", "4 to 8 are customary for a format", _ATTENTION),
    "summarise": _Customary(16, "attention", "8 to 16 are customary for summaries and translation", _ATTENTION),
    "code": _Customary(
        32, "all-linear", "16 to 64 are customary for code and long reasoning", "code gains from the MLP's capacity too"
    ),
}
_UNSURE = _Customary(
    8, "attention", "8 where nothing is known of the task; try 16, then 32, if it does not converge", _ATTENTION
)


def task_options(task: Task | None) -> dict[str, Any]:
    """Return the options that a task sets where nobody gives others."""
    return {} if task is None else {"rank": _TASKS[task].rank, "targets": _TASKS[task].targets}


def recommended(
    spec: TrainingSpec,
    chosen: Forecast,
    customary: Mapping[PlanMethod, Forecast],
    card: Card | None,
    given: Collection[str],
    task: Task | None,
    *,
    roomy: float,
    method_given: bool,
) -> list[Choice]:
    """Return the options of a training, each with its reason; what was given says so."""
    of_task = _UNSURE if task is None else _TASKS[task]
    batch = chosen.batch_size
    steps = max(1, spec.effective_batch // batch)

    def choice(option: str, value: object, reason: str, *names: str) -> Choice:
        return Choice(option=option, value=str(value), reason="given" if set(names) & set(given) else reason)

    why = "given" if method_given else _why_method(chosen.method, customary, card, roomy)
    found = [Choice(option="method", value=chosen.method, reason=why)]
    if chosen.method != "full":
        found += [
            choice("rank", spec.rank, of_task.why_rank, "rank"),
            choice(
                "alpha", f"{spec.resolved_alpha:g}", "2·rank: the update is scaled by 2, whatever the rank", "alpha"
            ),
            choice("targets", spec.targets, of_task.why_targets, "targets"),
        ]
    room = f"{chosen.card_bytes / 1e9:.1f} GB" + (f" of {card.memory_bytes / 1e9:.0f}" if card else "")
    found += [
        choice(
            "batch × accumulation",
            f"{batch} × {steps}",
            f"{batch * steps} rows a step; so it takes {room}",
            "batch_size",
        ),
        choice("max length", chosen.max_length, _why_length(spec, chosen), "max_length"),
        Choice(
            option="checkpointing",
            value="on" if chosen.gradient_checkpointing else "off",
            reason="activations would not fit otherwise; costs a third more compute"
            if chosen.gradient_checkpointing
            else "activations fit, and nothing is computed twice",
        ),
    ]
    return found


def _why_method(method: PlanMethod, customary: Mapping[PlanMethod, Forecast], card: Card | None, roomy: float) -> str:
    if card is None:
        return "without a card named, the one that takes least memory"
    share = round(100 * customary["lora"].card_bytes / card.memory_bytes)
    if method == "lora":
        return f"with 16-bit weights it takes {share} % of the card, and up to {100 * roomy:.0f} % leave room"
    return f"with 16-bit weights it would take {share} % of the card, and more than {100 * roomy:.0f} % leave too little room"


def _why_length(spec: TrainingSpec, chosen: Forecast) -> str:
    if chosen.max_length < spec.max_length:
        return f"rows of {spec.max_length} tokens do not fit; longer rows are cut"
    return "longer rows are cut; adapterctl data preview shows how long yours are"
