"""AdamW over the trained parameters, its groups, and the schedule of its learning rate.

>>> Schedule("linear", 2, 6).share(0), Schedule("linear", 2, 6).share(4)
(0.3333333333333333, 0.5)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from sdk.schemas.failures import FailureReason
from sdk.schemas.training import TrainingSpec
from workers.pipelines.errors import PipelineError

#: AdamW's ε, the usual value.
EPSILON = 1e-8


@dataclass(frozen=True)
class Schedule:
    """The learning rate at each of `total_steps` steps, as a share of its peak."""

    kind: str
    warmup_steps: int
    total_steps: int
    #: Where a cosine ends.
    floor: float = 0.0

    def share(self, step: int) -> float:
        """Return the share at `step`, counted from 0.

        No step has a rate of zero: if the warm-up began at zero, a training of one step would learn nothing.
        """
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        if self.kind == "constant":
            return 1.0
        done = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        done = min(done, 1.0)
        if self.kind == "cosine":
            return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * done))
        return 1 - done


def schedule_of(spec: TrainingSpec, rows: int) -> Schedule:
    """Return the schedule of a training over so many rows an epoch."""
    steps_an_epoch = math.ceil(rows / spec.effective_batch)
    total = spec.max_steps or max(1, math.ceil(steps_an_epoch * spec.epochs))
    # All steps but one may be warm-up, so the peak is always reached.
    return Schedule(spec.schedule, min(math.ceil(spec.warmup_ratio * total), total - 1), total, spec.lr_floor)


def optimizer_of(trainable: Mapping[str, Any], spec: TrainingSpec) -> Any:
    """Return AdamW over parameters by name."""
    groups = [{**group, "peak_lr": group["lr"]} for group in parameter_groups(trainable, spec)]
    return _maker(spec)(groups, lr=spec.lr, betas=(spec.adam_beta1, spec.adam_beta2), eps=EPSILON)


def require_card(spec: TrainingSpec, kind: str) -> None:
    """Raise PipelineError ("spec") for an optimiser that the device doesn't have."""
    if spec.optim != "adamw" and kind != "cuda":
        raise PipelineError(
            FailureReason.SPEC,
            f"optim {spec.optim} needs a CUDA card, and this worker has none; leave it out, or submit the training with device cuda.",
        )


def _maker(spec: TrainingSpec) -> Any:
    if spec.optim == "adamw":
        return torch.optim.AdamW
    from bitsandbytes import optim

    # Matrices with fewer than 4,096 numbers have 32-bit moments there too.
    made = {
        "adamw_8bit": optim.AdamW8bit,
        "paged_adamw": optim.PagedAdamW32bit,
        "paged_adamw_8bit": optim.PagedAdamW8bit,
    }
    return made[spec.optim]


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
        f"The training diverged: {what}; try, in this order: a lower learning rate ({spec.lr:g} → {spec.lr / 2:g}), a"
        f" longer warm-up (warmup_ratio {spec.warmup_ratio:g} → {max(0.1, 2 * spec.warmup_ratio):g}), a smaller batch"
        f" with more accumulation (batch_size {spec.batch_size} → {max(1, spec.batch_size // 2)}, grad_accum"
        f" {spec.grad_accum} → {spec.grad_accum * 2}), a look at the data.",
    )
