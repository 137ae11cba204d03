"""The optimiser over the trained parameters, its groups, and the schedule of its learning rate.

>>> Schedule("linear", 2, 6).share(0), Schedule("linear", 2, 6).share(4)
(0.3333333333333333, 0.5)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch

from sdk.advice.rules import lower_rate
from sdk.schemas.failures import FailureReason
from sdk.schemas.optimizers import OptimizerName
from sdk.schemas.schedules import DEFAULT_DECAY_SHARE, ScheduleName, clash_of_cycles, warmup_steps
from sdk.schemas.training import TrainingSpec
from workers.pipelines.errors import PipelineError

#: AdamW's ε, the usual value.
EPSILON = 1e-8
#: Lion's β₁ and β₂ (arXiv:2302.06675).
_LION_BETAS = (0.9, 0.99)
#: Adafactor's ε₂, the least size of a matrix that a step is measured by: each B begins at zero, and with the usual
#: 0.001 it would hardly leave it. At 1 per step has the size of the rate, as AdamW's has.
_ADAFACTOR_LEAST = 1.0


@dataclass(frozen=True)
class Schedule:
    """The learning rate at each of `total_steps` steps, as a share of its peak."""

    kind: ScheduleName
    warmup_steps: int
    total_steps: int
    #: What the rate falls towards.
    floor: float = 0.0
    #: How often it falls, with "cosine_restarts".
    cycles: int = 1
    #: The share of all steps in which it falls, with "wsd".
    decay_share: float = DEFAULT_DECAY_SHARE

    def share(self, step: int) -> float:
        """Return the share at `step`, counted from 0.

        No step has a rate of zero: if the warm-up began at zero, a training of one step would learn nothing.
        """
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        return self.floor + (1 - self.floor) * _COURSES[self.kind](self, step - self.warmup_steps)

    @property
    def steps_after_warmup(self) -> int:
        """How many steps the rate has to fall in."""
        return max(1, self.total_steps - self.warmup_steps)

    def done(self, step: int) -> float:
        """Return the share of the steps after the warm-up that are done at the `step`-th of them."""
        return min(step / self.steps_after_warmup, 1.0)


def _cosine(done: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * done))


def _restarted(schedule: Schedule, step: int) -> float:
    # In whole numbers: rounded, the beginning of a cycle could be the end of the one before.
    steps = schedule.steps_after_warmup
    return _cosine(schedule.cycles * step % steps / steps if step < steps else 1.0)


def _decayed(schedule: Schedule, step: int) -> float:
    steps = min(math.ceil(schedule.decay_share * schedule.total_steps), schedule.steps_after_warmup)
    done = (step - (schedule.steps_after_warmup - steps)) / steps
    return 1 - math.sqrt(min(max(done, 0.0), 1.0))


#: What is left of the distance to the floor, by the number of the step after the warm-up.
_COURSES: dict[ScheduleName, Callable[[Schedule, int], float]] = {
    "cosine": lambda schedule, step: _cosine(schedule.done(step)),
    "linear": lambda schedule, step: 1 - schedule.done(step),
    "constant": lambda _schedule, _step: 1.0,
    "cosine_restarts": _restarted,
    # arXiv:2405.18392.
    "wsd": _decayed,
    # arXiv:1706.03762, in units of the warm-up.
    "inverse_sqrt": lambda schedule, step: (1 + step / max(1, schedule.warmup_steps)) ** -0.5,
}


def schedule_of(spec: TrainingSpec, rows: int) -> Schedule:
    """Return the schedule of a training over so many rows an epoch. Raises PipelineError ("spec") for more cycles than steps."""
    total = spec.steps_over(rows)
    if said := clash_of_cycles(spec.cycles, warmup_ratio=spec.warmup_ratio, total=total):
        raise PipelineError(FailureReason.SPEC, f"{said}, or more epochs.")
    return Schedule(
        spec.schedule,
        warmup_steps(spec.warmup_ratio, total),
        total,
        spec.lr_floor,
        spec.cycles or 1,
        spec.decay_share,
    )


def optimizer_of(trainable: Mapping[str, Any], spec: TrainingSpec) -> Any:
    """Return an optimiser over parameters by name, ready for its first step."""
    groups = [{**group, "peak_lr": group["lr"]} for group in parameter_groups(trainable, spec)]
    return _MAKERS[spec.optim](groups, spec)


def require_optimizer(spec: TrainingSpec, kind: str) -> None:
    """Raise PipelineError ("spec") for an optimiser that the device, or this worker, doesn't have."""
    optimizer = spec.optimizer
    if optimizer.needs_card and kind != "cuda":
        raise PipelineError(
            FailureReason.SPEC,
            f"optim {spec.optim} needs a CUDA GPU, and this worker has none; leave it out, or submit the training with device cuda.",
        )
    if optimizer.extra is not None and find_spec(optimizer.extra[1]) is None:
        extra, library = optimizer.extra
        raise PipelineError(
            FailureReason.SPEC,
            f"optim {spec.optim} needs the library {library}, and this worker lacks it; install adapterctl[{extra}] on its"
            " workers, or choose another optimiser.",
        )


def _adamw(groups: list[dict[str, Any]], spec: TrainingSpec) -> Any:
    return torch.optim.AdamW(groups, **_of_adam(spec))


def _of_adam(spec: TrainingSpec) -> dict[str, Any]:
    return {"lr": spec.lr, "betas": (spec.adam_beta1, spec.adam_beta2), "eps": EPSILON}


def _adafactor(groups: list[dict[str, Any]], spec: TrainingSpec) -> Any:
    return torch.optim.Adafactor(groups, lr=spec.lr, eps=(None, _ADAFACTOR_LEAST))


def _of_bitsandbytes(name: str) -> Callable[[list[dict[str, Any]], TrainingSpec], Any]:
    """An AdamW there; matrices with fewer than 4,096 numbers have 32-bit moments."""

    def make(groups: list[dict[str, Any]], spec: TrainingSpec) -> Any:
        from bitsandbytes import optim

        return getattr(optim, name)(groups, **_of_adam(spec))

    return make


def _lion(groups: list[dict[str, Any]], spec: TrainingSpec) -> Any:
    from lion_pytorch import Lion

    return Lion(groups, lr=spec.lr, betas=_LION_BETAS)


def _schedule_free(groups: list[dict[str, Any]], spec: TrainingSpec) -> Any:
    from schedulefree import AdamWScheduleFree

    made = AdamWScheduleFree(groups, **_of_adam(spec))
    made.train()
    return made


_MAKERS: dict[OptimizerName, Callable[[list[dict[str, Any]], TrainingSpec], Any]] = {
    "adamw": _adamw,
    "adamw_8bit": _of_bitsandbytes("AdamW8bit"),
    "paged_adamw": _of_bitsandbytes("PagedAdamW32bit"),
    "paged_adamw_8bit": _of_bitsandbytes("PagedAdamW8bit"),
    "adafactor": _adafactor,
    "lion": _lion,
    "schedule_free_adamw": _schedule_free,
}


def parameter_groups(trainable: Mapping[str, Any], spec: TrainingSpec) -> list[dict[str, Any]]:
    """Return the parameters by rate and decay, each A in the first group.

    With LoRA+ each B, and each parameter with one dimension (magnitudes, biases, norms), learns at the ratio times the
    rate, as in PEFT's `create_loraplus_optimizer`. Only matrices decay.
    """
    ratio = spec.loraplus_lr_ratio or 1.0
    groups: dict[tuple[bool, bool], list[Any]] = {}
    for name, parameter in trainable.items():
        fast = ratio != 1.0 and ("lora_B" in name or parameter.ndim == 1)
        decays = spec.weight_decay > 0 and parameter.ndim > 1
        groups.setdefault((fast, spec.weight_decay > 0 and not decays), []).append(parameter)
    return [
        {
            "params": groups[fast, still],
            "lr": spec.lr * ratio if fast else spec.lr,
            "weight_decay": 0.0 if still else spec.weight_decay,
        }
        for fast, still in sorted(groups)
    ]


def diverged(spec: TrainingSpec, what: str) -> PipelineError:
    """Return the error for a training whose numbers are no longer finite, with what to try, in order."""
    return PipelineError(
        FailureReason.DIVERGED,
        f"The training diverged: {what}; try, in this order: a lower learning rate ({spec.lr:g} → {lower_rate(spec.lr):g}), a"
        f" longer warm-up (warmup_ratio {spec.warmup_ratio:g} → {max(0.1, 2 * spec.warmup_ratio):g}), a smaller batch"
        f" with more accumulation (batch_size {spec.batch_size} → {max(1, spec.batch_size // 2)}, grad_accum"
        f" {spec.grad_accum} → {spec.grad_accum * 2}), a look at the data.",
    )
