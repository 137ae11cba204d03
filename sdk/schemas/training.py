"""The request for a training (`TrainingSpec`) and its report (`TrainingReport`)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, ValidationInfo, field_validator, model_validator

from sdk.formats.labels import MAX_LABEL_CHARACTERS, MAX_LABELS
from sdk.formats.objectives import Objective
from sdk.formats.option_texts import parse_numbers, parse_values
from sdk.schemas.option_clashes import clash_of
from sdk.schemas.option_types import (
    MOST_RANK,
    TARGET_PRESETS,
    UNUSED,
    Alphas,
    Columns,
    ModuleNames,
    Numbers,
    Ranks,
    joined,
    require_modules,
)
from sdk.schemas.wire import Open, Sha256, Wire, canonical_json

JsonScalar = str | int | float | bool | None

#: What a LoRA record keeps of settings without their own field; the rest is in `adapter_config.json`.
MAX_OTHER_SETTINGS = 64
MAX_OTHER_CHARACTERS = 200
_LongText = Annotated[str, StringConstraints(max_length=2000)]
_ShortText = Annotated[str, StringConstraints(max_length=MAX_OTHER_CHARACTERS)]


#: As TRL has it.
DEFAULT_BETA = 0.1


class TrainingSpec(Wire):
    """One training, as asked for. Defaults are the starting points of common practice; None is resolved by the job."""

    #: "qlora" trains over a base in 4 bits, or 8, "lora" over a 16- or 32-bit one.
    method: Literal["qlora", "lora"] = "qlora"
    #: What is learnt: "sft" the next token, "classify" which label a text has, "dpo" which of two answers is preferred. None: by
    #: the rows. Earlier releases don't know this field, so it is sent only if it is set.
    objective: Annotated[Objective | None, Field(exclude_if=lambda value: value is None)] = None
    #: Rank r of A (r, in) and B (out, r).
    rank: Annotated[int, Field(ge=1, le=MOST_RANK)] = 8
    #: α; the update is scaled by α/r. None means 2·rank.
    alpha: Annotated[float, Field(gt=0, le=65536)] | None = None
    #: Probability that an input of A is dropped while training; with nearly all of them dropped nothing is learnt.
    dropout: Annotated[float, Field(ge=0, le=0.9)] = 0.05
    #: A preset ("qv", "attention", "all-linear"), names separated by commas (of linear modules, or of stacked
    #: parameters such as "experts.down_proj", which need dropout 0), or one pattern for whole names.
    targets: Annotated[str, Field(min_length=1, max_length=65_536)] = "attention"
    #: Modules to leave out although targets includes them: names separated by commas, or one pattern.
    exclude: Annotated[
        Annotated[str, Field(min_length=1, max_length=4000)] | None, Field(exclude_if=lambda value: value is None)
    ] = None
    #: rsLoRA: the update is scaled by α/√r, so that large ranks learn as fast as small ones (arXiv:2312.03732).
    use_rslora: Annotated[bool, UNUSED] = False
    #: DoRA: the norm of each row of W + s·BA is learnt apart from its direction (arXiv:2402.09353).
    use_dora: Annotated[bool, UNUSED] = False
    #: "eva": A starts at the right singular vectors of its inputs on the rows (arXiv:2410.07170); None: at random. B starts at zero
    #: either way.
    init_lora_weights: Annotated[Literal["eva"] | None, UNUSED] = None
    #: EVA: a module may get so many times `rank`, of ranks that others lose: those whose inputs vary in more directions. 1: each keeps its own.
    eva_rho: Annotated[float, Field(ge=1, le=64, exclude_if=lambda value: value == 1.0)] = 1.0
    #: Ranks of modules that differ from `rank`: "q_proj=16,layers.0.mlp.up_proj=4".
    rank_pattern: Annotated[Ranks | None, UNUSED] = None
    #: α of modules that differ from `alpha`, written alike. Without alpha, modules of rank_pattern have 2·rank of theirs.
    alpha_pattern: Annotated[Alphas | None, UNUSED] = None
    #: Numbers of the layers whose modules are adapted, from 0: "0-3,8". None: all.
    layers_to_transform: Annotated[Numbers | None, UNUSED] = None
    #: Biases of the base that are trained too: "all" of them, or "lora_only", those of the adapted modules.
    bias: Annotated[Literal["none", "all", "lora_only"], Field(exclude_if=lambda value: value == "none")] = "none"
    #: Modules that are trained and stored whole: names separated by commas.
    modules_to_save: Annotated[ModuleNames | None, UNUSED] = None
    #: Tokens whose rows of the input embedding are trained, by id: "5,100-103".
    trainable_token_indices: Annotated[Numbers | None, UNUSED] = None
    #: How weights are quantised for "qlora": "nf4" or "fp4", 4 bits with one scale per 64 weights; "int8", 8 bits with one scale per row.
    quant_type: Annotated[Literal["nf4", "fp4", "int8"], Field(exclude_if=lambda value: value == "nf4")] = "nf4"
    #: Whether the scales of 4 bits are quantised too, to 8 bits: 4.127 bits a weight instead of 4.5.
    double_quant: Annotated[bool, Field(exclude_if=lambda value: value is True)] = True
    #: Which tokens the loss is computed on. None: completion, assistant or all, by the shape of the rows.
    loss_on: Literal["completion", "assistant", "all"] | None = None
    #: DPO: β of the loss -log σ(β · (log-ratio of chosen - log-ratio of rejected)), each to the base, or to the version that is continued;
    #: the larger, the closer the model stays to that (arXiv:2305.18290).
    beta: Annotated[float, Field(gt=0, le=100, exclude_if=lambda value: value == DEFAULT_BETA)] = DEFAULT_BETA
    #: Which columns of the data are which keys of a row, as "prompt=question,completion=answer"; other columns are left
    #: out. None: the keys are called as the columns. Earlier releases don't know this field.
    columns: Annotated[Columns | None, Field(exclude_if=lambda value: value is None)] = None
    #: Share of the rows that is held out, where no held-out rows are given; their loss is measured before and after.
    holdout: Annotated[Annotated[float, Field(gt=0, lt=1)] | None, UNUSED] = None
    #: The column whose rows stay on one side of the split if they have the same in it. None: each row is for itself.
    holdout_by: Annotated[Annotated[str, Field(min_length=1, max_length=200)] | None, UNUSED] = None
    #: Which rows are held out; another seed than that of the training, so that trainings with several have the same.
    holdout_seed: Annotated[int, Field(ge=0, le=2**32 - 1), UNUSED] = 0
    #: Passes over the data; ignored if max_steps is given.
    epochs: Annotated[float, Field(gt=0, le=1000)] = 3.0
    #: Optimiser steps.
    max_steps: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    #: Peak learning rate of AdamW.
    lr: Annotated[float, Field(gt=0, le=1)] = 2e-4
    #: Share of the steps in which the learning rate rises from zero.
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.03
    #: Course of the learning rate after the warm-up.
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    #: AdamW with its moments in 32 or 8 bits, and in memory of the card alone or paged out to the machine's where that is full. All but
    #: "adamw" need a CUDA card.
    optim: Annotated[
        Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"],
        Field(exclude_if=lambda value: value == "adamw"),
    ] = "adamw"
    #: LoRA+: each B learns at this many times the rate of its A (arXiv:2402.12354).
    loraplus_lr_ratio: Annotated[Annotated[float, Field(ge=1, le=1024)] | None, UNUSED] = None
    #: Share of each matrix that a step at the rate 1 would take away; biases, norms and magnitudes are left alone.
    weight_decay: Annotated[float, Field(ge=0, le=1), UNUSED] = 0.0
    #: The norm that the gradients of a step together are cut to; 0: they are not.
    max_grad_norm: Annotated[float, Field(ge=0, le=1e6, exclude_if=lambda value: value == 1.0)] = 1.0
    #: Share of the mean of gradients that AdamW keeps at each step.
    adam_beta1: Annotated[float, Field(ge=0, lt=1, exclude_if=lambda value: value == 0.9)] = 0.9
    #: Share of the mean of squared gradients.
    adam_beta2: Annotated[float, Field(ge=0, lt=1, exclude_if=lambda value: value == 0.999)] = 0.999
    #: NEFTune: noise is added to the embeddings while training, uniform within ±α/√(length · dimension) (arXiv:2310.05914).
    neftune_noise_alpha: Annotated[Annotated[float, Field(gt=0, le=1000)] | None, UNUSED] = None
    #: Rows in one forward pass.
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 4
    #: Forward passes summed into one optimiser step.
    grad_accum: Annotated[int, Field(ge=1, le=4096)] = 4
    #: Whether short rows share a sequence, without padding: "on"; "auto" where that is less to compute than rows sorted by length. It is left
    #: out over bases that don't keep such rows apart. None: "auto" on a CPU, and "off" on a card.
    packing: Annotated[Literal["off", "auto", "on"] | None, Field(exclude_if=lambda value: value is None)] = None
    #: Longest row in tokens; longer ones are cut at the end, and rows of {text} split.
    max_length: Annotated[int, Field(ge=8, le=1_048_576)] = 1024
    #: Seed of initialisation, order and dropout.
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0

    @field_validator("targets", "exclude", mode="before")
    @classmethod
    def _names_in_a_list(cls, value: Any, info: ValidationInfo) -> Any:
        return joined(value, info)

    @field_validator("targets")
    @classmethod
    def _targets_are_modules(cls, value: str) -> str:
        return value if value in TARGET_PRESETS else require_modules(value)

    @field_validator("exclude")
    @classmethod
    def _excluded_are_modules(cls, value: str | None) -> str | None:
        return None if value is None else require_modules(value)

    @model_validator(mode="after")
    def _options_go_together(self) -> Self:
        if said := clash_of(self):
            raise ValueError(said)
        return self

    @property
    def most_rank(self) -> int:
        """The largest rank that EVA may give a module: rank · eva_rho, rounded as PEFT rounds it."""
        return min(MOST_RANK, round(self.rank * self.eva_rho))

    @property
    def effective_batch(self) -> int:
        """Rows in one optimiser step."""
        return self.batch_size * self.grad_accum

    @property
    def resolved_alpha(self) -> float:
        """α of the modules that no pattern names."""
        return float(self.alpha if self.alpha is not None else 2 * self.rank)

    @property
    def packs_scales(self) -> bool:
        """Whether scales are quantised too; int8 has so few that they never are."""
        return self.double_quant and self.quant_type != "int8"

    @property
    def ranks(self) -> dict[str, int]:
        """Ranks of the modules that rank_pattern names."""
        return (
            {}
            if self.rank_pattern is None
            else {name: int(rank) for name, rank in parse_values(self.rank_pattern).items()}
        )

    @property
    def alphas(self) -> dict[str, float]:
        """α of the modules that have one of their own: without `alpha` that is also each with its own rank."""
        followed = {} if self.alpha is not None else {name: 2.0 * rank for name, rank in self.ranks.items()}
        own = {} if self.alpha_pattern is None else parse_values(self.alpha_pattern)
        return dict(sorted({**followed, **own}.items()))

    @property
    def layers(self) -> list[int] | None:
        """Numbers of the adapted layers; None: all."""
        return None if self.layers_to_transform is None else parse_numbers(self.layers_to_transform)

    @property
    def saved_modules(self) -> list[str]:
        """Names of the modules that are trained whole."""
        return [] if self.modules_to_save is None else self.modules_to_save.split(",")

    @property
    def tokens(self) -> list[int]:
        """Ids of the tokens whose embedding is trained."""
        return [] if self.trainable_token_indices is None else parse_numbers(self.trainable_token_indices)

    def further(self) -> dict[str, JsonScalar]:
        """What is chosen beyond the options that every training has, by name."""
        fields = type(self).model_fields
        return {
            name: value
            for name, value in self.model_dump(mode="json").items()
            if fields[name].exclude_if is not None and name != "objective"
        }


class LoraConfig(Wire):
    """The LoRA configuration of a version, resolved: real numbers and real module names."""

    rank: Annotated[int, Field(ge=1)]
    #: α as a number; the scale is α/r, or α/√r with use_rslora.
    alpha: float
    dropout: Annotated[float, Field(ge=0, lt=1)]
    #: Sorted names as in `adapter_config.json`; may be empty beside target_parameters.
    target_modules: list[str]
    rank_pattern: dict[str, int] = {}
    alpha_pattern: dict[str, float] = {}
    modules_to_save: list[str] = []
    bias: Annotated[Literal["none", "all", "lora_only"], Open] = "none"
    init: JsonScalar = True
    use_rslora: bool = False
    use_dora: bool = False
    task_type: str | None = None
    #: Whether the base keeps the adapted weights transposed, (in, out), as GPT-2 does.
    fan_in_fan_out: bool = False
    #: Whether B has its own bias.
    lora_bias: bool = False
    #: Sorted names of modules that are left out although target_modules includes them.
    exclude_modules: list[str] = []
    #: Sorted numbers of the layers that are adapted; empty means all.
    layers_to_transform: list[int] = []
    #: Names of the lists that layers_to_transform counts in; empty means those that PEFT knows.
    layers_pattern: list[str] = []
    #: Sorted names of parameters that are adapted without their own module, such as stacked experts.
    target_parameters: list[str] = []
    #: Ranges [start, end) of the base's layers that make up the adapted model; empty means the layers as they are.
    layer_replication: list[Annotated[list[int], Field(min_length=2, max_length=2)]] = []
    #: Tokens whose embedding is trained: in the input embedding, or by the name of an embedding module.
    trainable_token_indices: list[int] | dict[str, list[int]] = []
    #: Tokens after which the adapter acts (activated LoRA); empty means on every token.
    alora_invocation_tokens: list[int] = []
    #: Other settings that differ from PEFT's defaults; nested ones by dotted names.
    other: Annotated[
        dict[_ShortText, _ShortText | int | float | bool | None], Field(max_length=MAX_OTHER_SETTINGS)
    ] = {}

    @model_validator(mode="after")
    def _something_is_adapted(self) -> LoraConfig:
        if not self.target_modules and not self.target_parameters:
            raise ValueError("neither target_modules nor target_parameters names anything")
        return self


class QuantizationRecipe(Wire):
    """How the base was quantised during training, or is stored; needed to merge correctly."""

    method: Annotated[Literal["bitsandbytes"], Open] = "bitsandbytes"
    type: Annotated[Literal["nf4", "fp4", "int8"], Open] = "nf4"
    double_quant: bool = True
    compute_dtype: Annotated[Literal["bfloat16", "float16", "float32"], Open] = "bfloat16"
    #: Weights that share one scale; None: those of a row.
    block_size: Annotated[int, Field(ge=1)] | None = 64
    skipped_modules: list[str] = []
    library_version: str | None = None
    #: The type of the tensors with the packed weights, if the base is stored packed; None: the training packed it.
    storage_dtype: Annotated[
        Annotated[Literal["uint8", "bfloat16", "float16", "float32"], Open] | None,
        Field(exclude_if=lambda value: value is None),
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _int8_is_by_rows(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given.get("type") == "int8":
            return {"double_quant": False, "block_size": None, **given}
        return given

    @property
    def four_bit_block(self) -> int:
        """Weights that share one scale, of a recipe in 4 bits."""
        assert self.block_size is not None
        return self.block_size


def _require_day(value: str) -> str:
    date.fromisoformat(value)
    return value


#: A day as "2026-11-26".
Day = Annotated[str, StringConstraints(pattern=r"^\d{4}-\d{2}-\d{2}$"), AfterValidator(_require_day)]


class Rendering(Wire):
    """How rows became tokens, and where a model trained on them stops."""

    #: SHA-256 of each chat template that rendered conversations, sorted.
    templates: Annotated[list[Sha256], Field(max_length=64)] = []
    #: Number of texts by the method that found what to learn: "marks", "prefix", "variant", "turns", "changed" or
    #: "all".
    methods: Annotated[dict[_ShortText, Annotated[int, Field(ge=0)]], Field(max_length=64)] = {}
    #: The day that the template wrote into the conversations; None if it writes none.
    template_date: Day | None = None
    #: Ids of the tokens that end what is learnt, sorted; generation stops at them.
    stop_ids: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=256)] = []
    #: Which columns were which keys of the rows; None: the keys were called as the columns.
    columns: Annotated[_LongText | None, Field(exclude_if=lambda value: value is None)] = None
    #: SHA-256 over the digests of the base's tokenizer files; None: an earlier release rendered the rows.
    tokenizer: Annotated[Sha256 | None, Field(exclude_if=lambda value: value is None)] = None
    #: SHA-256 of the base's `generation_config.json`, which the fingerprint does not cover; None if it has none.
    generation: Annotated[Sha256 | None, Field(exclude_if=lambda value: value is None)] = None

    def canonical(self) -> bytes:
        """Return the bytes of `rendering.json`, which is stored with an adapter."""
        return canonical_json(self.model_dump())


def _require_distinct(value: list[str]) -> list[str]:
    if len(set(value)) != len(value):
        raise ValueError("a label appears twice")
    return value


#: Labels in the order that numbers them from 0.
Labels = Annotated[
    list[Annotated[str, StringConstraints(min_length=1, max_length=MAX_LABEL_CHARACTERS)]],
    Field(min_length=2, max_length=MAX_LABELS),
    AfterValidator(_require_distinct),
]


class SourceUse(Wire):
    """How a training used one of several datasets."""

    digest: str
    #: Its share of the rows of an epoch, against those of the others; None: all of its rows come once.
    weight: Annotated[float, Field(gt=0)] | None = None
    #: Rows of it that are not held out.
    rows: Annotated[int, Field(ge=0)]
    #: Rows of it in one epoch, before those with nothing to learn from are dropped.
    epoch_rows: Annotated[int, Field(ge=0)]


class DatasetUse(Wire):
    """How a training used its dataset, or its datasets, of which `digest` is the first."""

    digest: str
    #: Rows left after dropping those with nothing to learn from.
    rows: Annotated[int, Field(ge=0)]
    #: Tokens that the loss is computed on, in one epoch; for a classification the labels, one per row.
    supervised_tokens: Annotated[int, Field(ge=0)]
    #: None: an earlier release trained it, or nobody said.
    rendering: Annotated[Rendering | None, Field(exclude_if=lambda value: value is None)] = None
    #: The labels of a classification.
    labels: Annotated[Labels | None, Field(exclude_if=lambda value: value is None)] = None
    #: Each dataset, where there were several; None: the one.
    sources: Annotated[list[SourceUse] | None, Field(exclude_if=lambda value: value is None)] = None

    @property
    def digests(self) -> list[str]:
        """Those of all datasets."""
        return [self.digest] if self.sources is None else [source.digest for source in self.sources]


class LossPoint(Wire):
    """One point of the loss curve."""

    step: int
    loss: float
    lr: float | None = None


def held_out_warning(training: Mapping[str, Any]) -> str | None:
    """Say it where a record has held-out rows that were learnt, under its `held_out_rows_in_training`."""
    count = training.get("held_out_rows_in_training")
    if type(count) is not int or count < 1:
        return None
    return f"{count} of the held-out rows are training rows too, so their loss says too little"


class TrainingReport(Wire):
    """What a training did, as recorded in the lineage of its version."""

    lora: LoraConfig
    quantization: QuantizationRecipe | None
    rows: int
    supervised_tokens: int
    #: Every resolved hyperparameter, flat.
    training: dict[str, JsonScalar]
    #: loss, eval_loss, eval_loss_base, train_s, tokens_per_s, peak_memory_bytes, trainable_parameters …
    metrics: dict[str, float]
    #: Distribution name to version.
    libraries: dict[str, str]
    curve: list[LossPoint] = []
    rendering: Annotated[Rendering | None, Field(exclude_if=lambda value: value is None)] = None
    #: The labels of a classification.
    labels: Annotated[Labels | None, Field(exclude_if=lambda value: value is None)] = None
    #: Each dataset, where there were several.
    sources: Annotated[list[SourceUse] | None, Field(exclude_if=lambda value: value is None)] = None

    def dataset_use(self, digest: str) -> DatasetUse:
        """Return how the training used the dataset with a digest."""
        return DatasetUse(
            digest=digest,
            rows=self.rows,
            supervised_tokens=self.supervised_tokens,
            rendering=self.rendering,
            labels=self.labels,
            sources=self.sources,
        )

    @model_validator(mode="after")
    def _loss_is_there(self) -> TrainingReport:
        if "loss" not in self.metrics:
            raise ValueError("the training report is incomplete: metrics.loss is missing")
        return self
