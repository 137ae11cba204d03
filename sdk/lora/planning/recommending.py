"""Which options to choose, with one reason each.

>>> task_options("code")
{'rank': 32, 'targets': 'all-linear'}
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sdk.lora.planning.cards import GpuCard
from sdk.lora.planning.footprint import HALF
from sdk.schemas.lora_config import QuantizationRecipe
from sdk.schemas.planning import Choice, Forecast, PlanChoices, PlanMethod, Task
from sdk.schemas.training import TrainingSpec


class Asked(PlanChoices):
    """The options that a plan is made for.

    >>> Asked(gpu="24GB").spec.rank
    8
    """

    spec: TrainingSpec = TrainingSpec()
    #: The names of options of the training that were given: the plan doesn't choose these.
    given: frozenset[str] = frozenset()
    #: Whether the plan chooses only what a worker chooses: options that were not given have their defaults.
    as_given: bool = False
    #: Bytes per number of the base if a training holds it as it is stored.
    width: int = HALF
    #: How the base is stored if it is in 4 bits already.
    stored: QuantizationRecipe | None = None


@dataclass(frozen=True)
class _Customary:
    rank: int
    targets: str
    why_rank: str
    why_targets: str


_ATTENTION = "attention is what most adapters need; all-linear holds more, and overfits small data sooner"
#: Common ranks and targets by what is to be learnt.
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
    """Return the options that a task sets unless others are given."""
    return {} if task is None else {"rank": _TASKS[task].rank, "targets": _TASKS[task].targets}


def recommended(
    asked: Asked, chosen: Forecast, customary: Mapping[PlanMethod, Forecast], card: GpuCard | None, *, roomy: float
) -> list[Choice]:
    """Return the options of a training, each with its reason, which is "given" or "default" if the plan didn't choose."""
    spec = asked.spec
    of_task = _UNSURE if asked.task is None else _TASKS[asked.task]

    def choice(option: str, value: object, reason: str, *names: str) -> Choice:
        given = [name in asked.given for name in names]
        why = "given" if all(given) else "default" if asked.as_given and not any(given) else reason
        return Choice(option=option, value=str(value), reason=why)

    why_method = (
        "the base is stored in 4 bits" if asked.stored else _why_method(chosen.method, customary, card, roomy=roomy)
    )
    found = [choice("method", chosen.method, why_method, "method")]
    if chosen.method != "full":
        found += [
            choice("rank", spec.rank, of_task.why_rank, "rank"),
            choice(
                "alpha",
                f"{spec.resolved_alpha:g}",
                "2·rank: the update is scaled by 2, whatever the rank",
                "alpha",
            ),
            choice("targets", spec.targets, of_task.why_targets, "targets"),
        ]
    batch, steps = chosen.batch_size, _accumulation(asked, chosen)
    room = f"{chosen.card_bytes / 1e9:.1f} GB" + (f" of {card.memory_bytes / 1e9:.0f}" if card else "")
    why_batch = f"{batch * steps} rows per step; so it takes {room}"
    return [
        *found,
        choice("batch × accumulation", f"{batch} × {steps}", why_batch, "batch_size", "grad_accum"),
        choice("max length", chosen.max_length, _why_length(spec, chosen), "max_length"),
        Choice(
            option="checkpointing",
            value="on" if chosen.gradient_checkpointing else "off",
            reason="given" if asked.gradient_checkpointing is not None else _why_checkpointing(chosen, card),
        ),
    ]


def _accumulation(asked: Asked, chosen: Forecast) -> int:
    """Forward passes per step: as given, or else as many as reach the requested rows per step."""
    if asked.as_given or "grad_accum" in asked.given:
        return asked.spec.grad_accum
    return max(1, asked.spec.effective_batch // chosen.batch_size)


def _why_checkpointing(chosen: Forecast, card: GpuCard | None) -> str:
    if card is None:
        return "without a GPU that it fits, the one that takes less memory"
    if chosen.gradient_checkpointing:
        return "activations would take more than half of what the base leaves free; costs a third more compute"
    return "activations fit without gradient checkpointing"


def _why_method(
    method: PlanMethod, customary: Mapping[PlanMethod, Forecast], card: GpuCard | None, *, roomy: float
) -> str:
    if card is None:
        return "without a GPU named, the one that takes the least memory"
    share = 100 * customary["lora"].card_bytes / card.memory_bytes
    most = f"{100 * roomy:.0f} %"
    if method == "lora":
        return f"with 16-bit weights it takes {math.floor(share)} % of the GPU's memory, and up to {most} leave room"
    if share <= 100 * roomy:
        return "the GPU was chosen for it, as the smallest that it fits"
    # Rounded to the nearest, 70.2 % would pass as 70 %.
    return f"with 16-bit weights it would take {math.ceil(share)} % of the GPU's memory, and more than {most} leave too little room"


def _why_length(spec: TrainingSpec, chosen: Forecast) -> str:
    if chosen.max_length < spec.max_length:
        return f"rows of {spec.max_length} tokens do not fit; longer rows are truncated"
    return "longer rows are truncated; adapterctl data preview shows how long yours are"
