"""The fields of `TrainingSpec` as keywords of a function."""

from __future__ import annotations

from typing import Literal, TypedDict

from sdk.formats.objectives import Objective


class PlanOptions(TypedDict, total=False):
    """The fields of `TrainingSpec` that a plan depends on or checks, as keywords of a function."""

    objective: Objective | None
    rank: int
    alpha: float | None
    dropout: float
    targets: str
    exclude: str | None
    use_rslora: bool
    use_dora: bool
    init_lora_weights: Literal["eva"] | None
    eva_rho: float
    rank_pattern: str | None
    alpha_pattern: str | None
    layers_to_transform: str | None
    bias: Literal["none", "all", "lora_only"]
    modules_to_save: str | None
    trainable_token_indices: str | None
    quant_type: Literal["nf4", "fp4", "int8"]
    double_quant: bool
    optim: Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"]
    lr: float
    batch_size: int
    grad_accum: int
    max_length: int


class TrainingOptions(PlanOptions, total=False):
    """The fields of `TrainingSpec` as keywords of a function, for type checkers and editors."""

    method: Literal["qlora", "lora"]
    loss_on: Literal["completion", "assistant", "all"] | None
    beta: float
    columns: str | None
    holdout: float | None
    holdout_by: str | None
    holdout_seed: int
    epochs: float
    max_steps: int | None
    warmup_ratio: float
    schedule: Literal["cosine", "linear", "constant"]
    loraplus_lr_ratio: float | None
    weight_decay: float
    max_grad_norm: float
    adam_beta1: float
    adam_beta2: float
    neftune_noise_alpha: float | None
    packing: Literal["off", "auto", "on"] | None
    seed: int
