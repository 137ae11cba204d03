"""The fields of specs as keywords of functions, for type checkers and editors. Written by `tests/support/keywords.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, TypedDict, TypeVar

from sdk.formats.objectives import LossOn
from sdk.schemas.evaluation import TextMetric
from sdk.schemas.optimizers import OptimizerName

T = TypeVar("T")
#: A value, several of them, or a text of these, such as "1,2,4" or "1e-4..1e-3:log[5]".
Several: TypeAlias = T | Sequence[T] | str


class PlanOptions(TypedDict, total=False):
    """The fields of a training that a plan depends on or checks."""

    add_tokens: str | None
    objective: Literal["sft", "classify", "dpo", "ipo", "orpo", "simpo", "kto"] | None
    rank: int
    alpha: float | None
    dropout: float
    targets: str
    exclude: str | None
    quant_type: Literal["nf4", "fp4", "int8"]
    double_quant: bool
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
    lr: float
    optim: OptimizerName
    batch_size: int
    grad_accum: int
    max_length: int


class TrainingOptions(PlanOptions, total=False):
    """The fields of `TrainingSpec`."""

    holdout: float | None
    holdout_by: str | None
    holdout_seed: int
    eval_every: int | str | None
    eval_rows: int | None
    keep: Literal["best", "last"] | None
    patience: int | None
    min_delta: float
    chat_template: str | None
    template_kwargs: str | None
    method: Literal["qlora", "lora"]
    beta: float
    simpo_gamma: float
    desirable_weight: float
    undesirable_weight: float
    loss_on: LossOn | None
    columns: str | None
    epochs: float
    max_steps: int | None
    warmup_ratio: float
    schedule: Literal["cosine", "linear", "constant", "cosine_restarts", "wsd", "inverse_sqrt"]
    lr_floor: float
    cycles: int | None
    decay_share: float
    loraplus_lr_ratio: float | None
    weight_decay: float
    max_grad_norm: float
    adam_beta1: float
    adam_beta2: float
    neftune_noise_alpha: float | None
    packing: Literal["off", "auto", "on"] | None
    seed: int
    samples: int
    report_to: str | None


class SweepKeywords(TypedDict, total=False):
    """The fields of `SweepFields`, and those of `TrainingSpec` with one value or several."""

    sample: Literal["grid", "random", "tpe"]
    trials: int | None
    stop_early: Literal["none", "halving", "median"]
    choose: str
    seeds: int
    threads: int | None
    parallel: int
    max_gpu_hours: float | None
    margin: float
    publish: Literal["best", "all", "none"]
    holdout: float | None
    holdout_by: str | None
    holdout_seed: int
    eval_every: int | str | None
    eval_rows: int | None
    keep: Literal["best", "last"] | None
    patience: int | None
    min_delta: float
    chat_template: str | None
    template_kwargs: str | None
    add_tokens: str | None
    method: Several[Literal["qlora", "lora"]]
    objective: Literal["sft", "classify", "dpo", "ipo", "orpo", "simpo", "kto"] | None
    beta: Several[float]
    simpo_gamma: Several[float]
    desirable_weight: Several[float]
    undesirable_weight: Several[float]
    rank: Several[int]
    alpha: Several[float | None]
    dropout: Several[float]
    targets: Several[str]
    exclude: Several[str | None]
    quant_type: Several[Literal["nf4", "fp4", "int8"]]
    double_quant: Several[bool]
    use_rslora: Several[bool]
    use_dora: Several[bool]
    init_lora_weights: Several[Literal["eva"] | None]
    eva_rho: Several[float]
    rank_pattern: Several[str | None]
    alpha_pattern: Several[str | None]
    layers_to_transform: Several[str | None]
    bias: Several[Literal["none", "all", "lora_only"]]
    modules_to_save: Several[str | None]
    trainable_token_indices: Several[str | None]
    loss_on: Several[LossOn | None]
    columns: str | None
    epochs: Several[float]
    max_steps: Several[int | None]
    lr: Several[float]
    warmup_ratio: Several[float]
    schedule: Several[Literal["cosine", "linear", "constant", "cosine_restarts", "wsd", "inverse_sqrt"]]
    lr_floor: Several[float]
    cycles: Several[int | None]
    decay_share: Several[float]
    optim: Several[OptimizerName]
    loraplus_lr_ratio: Several[float | None]
    weight_decay: Several[float]
    max_grad_norm: Several[float]
    adam_beta1: Several[float]
    adam_beta2: Several[float]
    neftune_noise_alpha: Several[float | None]
    batch_size: Several[int]
    grad_accum: Several[int]
    packing: Several[Literal["off", "auto", "on"] | None]
    max_length: Several[int]
    seed: int
    samples: int
    report_to: str | None


class PlanKeywords(PlanOptions, total=False):
    """The fields of `PlanChoices`."""

    method: Literal["qlora", "lora", "full"] | None
    gpu: str | None
    task: Literal["instruct", "summarise", "code", "format"] | None
    gradient_checkpointing: bool | None
    attention: Literal["sdpa", "flash", "eager"]
    logit_chunk_tokens: int | None


class RowOptions(TypedDict, total=False):
    """The fields of a training that say how its rows are read."""

    holdout: float | None
    holdout_by: str | None
    holdout_seed: int
    chat_template: str | None
    template_kwargs: str | None
    add_tokens: str | None
    loss_on: LossOn | None
    columns: str | None
    max_length: int


class EvaluationOptions(TypedDict, total=False):
    """The fields of `EvaluationSpec`."""

    loss_on: LossOn | None
    columns: str | None
    generate_rows: int
    metrics: list[TextMetric] | None
    regex: str | None
    scorers: list[str] | None
    max_length: int
    max_new_tokens: int
    max_thought_tokens: int | None
    keep_samples: int
    batch_size: int
    precision: Literal["as-trained", "nf4", "native"]
    seed: int


class MergeOptions(TypedDict, total=False):
    """The fields of `MergeSpec`."""

    onto: Literal["auto", "original", "dequantized"]
    dtype: Literal["auto", "bfloat16", "float16", "float32"]
    quantize: Literal["nf4"] | None
    measure: bool


class CombineOptions(TypedDict, total=False):
    """The fields of `CombineSpec`."""

    method: Literal["linear", "cat", "svd"]
    rank: int | None
    dtype: Literal["float32", "parents"]
