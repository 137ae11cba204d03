"""The options that a plan is made for.

>>> Asked(gpu="24GB").spec.rank
8
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from sdk.lora.planning.footprint import HALF, Attention
from sdk.schemas.lora_config import QuantizationRecipe
from sdk.schemas.planning import PlanMethod, Task
from sdk.schemas.training import TrainingSpec


@dataclass(frozen=True)
class Asked:
    """The options that a plan is made for."""

    spec: TrainingSpec = field(default_factory=TrainingSpec)
    #: The names of options that were given, including the method and checkpointing: the plan doesn't choose these.
    given: Collection[str] = ()
    #: Whether the plan chooses only what a worker chooses: options that were not given have their defaults.
    as_given: bool = False
    #: None: the plan chooses between lora and qlora.
    method: PlanMethod | None = None
    gpu: str | None = None
    task: Task | None = None
    #: None: only if it is needed.
    gradient_checkpointing: bool | None = None
    attention: Attention = "sdpa"
    #: Tokens whose logits are in memory at a time; None: all of a pass.
    logit_chunk_tokens: int | None = None
    #: Bytes per number of the base if a training holds it as it is stored.
    width: int = HALF
    #: How the base is stored if it is in 4 bits already.
    stored: QuantizationRecipe | None = None
