"""What somebody asks of a plan.

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
    """What somebody asks of a plan."""

    spec: TrainingSpec = field(default_factory=TrainingSpec)
    #: Options that were given, by name, the method and checkpointing among them: these are not chosen by the plan.
    given: Collection[str] = ()
    #: Whether nothing is chosen at all but what a worker chooses: options that were not given have their defaults.
    as_given: bool = False
    #: None: the plan chooses between lora and qlora.
    method: PlanMethod | None = None
    gpu: str | None = None
    task: Task | None = None
    #: None: only where it is needed.
    gradient_checkpointing: bool | None = None
    attention: Attention = "sdpa"
    #: Tokens whose logits are there at a time; None: all of a pass.
    logit_chunk_tokens: int | None = None
    #: Bytes of a number of the base, where a training has it as it is stored.
    width: int = HALF
    #: How the base is stored in 4 bits already, where it is.
    stored: QuantizationRecipe | None = None
