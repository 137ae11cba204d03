"""The options of a training: their bounds, and which of them can be combined."""

from __future__ import annotations

from collections.abc import Collection
from math import ceil
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from sdk.formats.base_files import HEADS, INPUT_EMBEDDINGS
from sdk.formats.objectives import OBJECTIVES, LearntOn, LossOn, Objective, traits_of
from sdk.formats.option_texts import parse_numbers, parse_values, same_module
from sdk.schemas.held_out import HoldoutFields
from sdk.schemas.optimizers import OPTIMIZERS, Optimizer, OptimizerName
from sdk.schemas.option_types import (
    MOST_RANK,
    TARGET_PRESETS,
    Alphas,
    Columns,
    ModuleNames,
    Numbers,
    Option,
    Ranks,
    joined,
    options_of,
    require_modules,
)
from sdk.schemas.schedules import DEFAULT_DECAY_SHARE, ScheduleName, clash_of_cycles, clash_of_schedule
from sdk.schemas.template_fields import TemplateFields, template_digest
from sdk.schemas.trackers import TRACKERS, ReportTo, TrackerName
from sdk.schemas.vocabulary_fields import VocabularyFields
from sdk.schemas.watch_fields import WatchFields
from sdk.schemas.wire import BY_HAND, IF_ANY, IF_SET, JsonScalar

#: TRL's defaults.
DEFAULT_BETA = 0.1
DEFAULT_GAMMA = 0.5


class TrainingFields(VocabularyFields, TemplateFields, WatchFields, HoldoutFields):
    """The options of a training by name, as they are requested and as they are recorded."""

    #: "qlora" trains over a base in 4 or 8 bits, "lora" over a 16- or 32-bit one.
    method: Annotated[
        Literal["qlora", "lora"], Option("Train over the base in 4 bits, or 8 (qlora), or in 16 (lora).", kept=True)
    ] = "qlora"
    #: What is learnt: with "sft" the next token, with "classify" which label a text has, with "dpo", "ipo", "orpo" or "simpo" which
    #: of two answers is preferred, with "kto" which answers are desirable. None: the rows decide, and pairs of answers are for "dpo".
    objective: Annotated[str | None, IF_SET] = None
    #: How strongly preferences are learnt, or how close the model stays to its reference, the base or the version that is
    #: continued. DPO, KTO: β of the reward β·log π/π_ref, the larger, the closer (arXiv:2305.18290, arXiv:2402.01306). IPO: τ; the margin
    #: that is aimed at is 1/(2τ) (arXiv:2310.12036). SimPO: β of the reward β/|y|·log π; 2 to 2.5 are usual (arXiv:2405.14734). ORPO: λ,
    #: the weight of the odds ratio next to the loss of chosen answers (arXiv:2403.07691).
    beta: Annotated[
        float,
        Field(gt=0, le=100, exclude_if=lambda value: value == DEFAULT_BETA),
        Option("dpo, kto, simpo: β of the reward; ipo: τ; orpo: λ of the odds ratio.", alone=True, of_loss=True),
    ] = DEFAULT_BETA
    #: SimPO: γ, by how much the reward of the chosen answer should exceed that of the rejected one (arXiv:2405.14734).
    simpo_gamma: Annotated[
        float,
        Field(ge=0, le=100, exclude_if=lambda value: value == DEFAULT_GAMMA),
        Option("simpo: by how much the chosen answer's reward should be the larger.", alone=True, of_loss=True),
    ] = DEFAULT_GAMMA
    #: KTO: the weight of the losses of desirable answers (arXiv:2402.01306, equation 8).
    desirable_weight: Annotated[
        float,
        Field(gt=0, le=1000, exclude_if=lambda value: value == 1.0),
        Option("kto: the weight of rows with the label true.", alone=True, of_loss=True),
    ] = 1.0
    #: KTO: the weight of the losses of undesirable answers.
    undesirable_weight: Annotated[
        float,
        Field(gt=0, le=1000, exclude_if=lambda value: value == 1.0),
        Option("kto: the weight of rows with the label false.", alone=True, of_loss=True),
    ] = 1.0
    #: Rank r of A (r, in) and B (out, r).
    rank: Annotated[
        int, Field(ge=1, le=MOST_RANK), Option("Rank of A and B.", kept=True, planned="by the task, or 8")
    ] = 8
    #: α; the update is scaled by α/r. None means 2·rank.
    alpha: Annotated[
        Annotated[float, Field(gt=0, le=65536)] | None,
        Option("The update is scaled by alpha/rank.", default="2·rank", kept=True, planned=True),
    ] = None
    #: Probability that an input of A is dropped in training; if nearly all of them are dropped, nothing is learnt.
    dropout: Annotated[float, Field(ge=0, le=0.9), Option("LoRA dropout, on the input of A.", planned=True)] = 0.05
    #: A preset ("qv", "attention", "all-linear"), names separated by commas (of linear modules, or of stacked
    #: parameters such as "experts.down_proj", which need dropout 0), or one pattern for whole names.
    targets: Annotated[
        str,
        Field(min_length=1, max_length=65_536),
        Option(
            "qv, attention, all-linear, names with commas (of modules, or of stacked experts), or one pattern.",
            kept=True,
            planned="by the task, or attention",
        ),
    ] = "attention"
    #: Modules to leave out although targets includes them: names separated by commas, or one pattern.
    exclude: Annotated[
        Annotated[str, Field(min_length=1, max_length=4000)] | None,
        IF_SET,
        Option("Modules among the targets to leave out: names with commas, or one pattern.", kept=True, planned=True),
    ] = None
    #: How weights are quantised for "qlora": "nf4" or "fp4", 4 bits with one scale per 64 weights; "int8", 8 bits with one scale per row.
    quant_type: Annotated[
        Literal["nf4", "fp4", "int8"],
        Field(exclude_if=lambda value: value == "nf4"),
        Option("What qlora holds the base in: 4 bits, or 8 (int8).", kept=True, planned=True),
    ] = "nf4"
    #: Whether the scales of 4-bit weights are quantised too, to 8 bits: 4.127 bits per weight instead of 4.5.
    double_quant: Annotated[
        bool,
        Field(exclude_if=lambda value: value is True),
        Option("Double quantisation: quantise the scales too.", kept=True, planned=True),
    ] = True
    #: rsLoRA: the update is scaled by α/√r, so that large ranks learn as fast as small ones; needs alpha (arXiv:2312.03732).
    use_rslora: Annotated[
        bool, IF_ANY, Option("rsLoRA: scale the update by alpha/√rank; needs --alpha.", kept=True, planned=True)
    ] = False
    #: DoRA: the norm of each row of W + s·BA is learnt separately from its direction (arXiv:2402.09353).
    use_dora: Annotated[
        bool, IF_ANY, Option("DoRA: train each weight's magnitude and direction separately.", kept=True, planned=True)
    ] = False
    #: "eva": A starts at the right singular vectors of its inputs on the rows (arXiv:2410.07170); None: at random. B starts at zero
    #: either way.
    init_lora_weights: Annotated[
        Literal["eva"] | None,
        IF_ANY,
        Option(
            "EVA: start A at the principal components of the rows' activations.",
            default="random",
            alone=True,
            kept=True,
            planned=True,
        ),
    ] = None
    #: EVA: a module whose inputs vary in more directions may get up to this many times `rank`, taken from other
    #: modules. 1: each keeps its own rank.
    eva_rho: Annotated[
        float,
        Field(ge=1, le=64, exclude_if=lambda value: value == 1.0),
        Option(
            "EVA: a module may get up to this many times --rank; others then get less.",
            alone=True,
            kept=True,
            planned=True,
        ),
    ] = 1.0
    #: Ranks of modules that differ from `rank`: "q_proj=16,layers.0.mlp.up_proj=4".
    rank_pattern: Annotated[
        Ranks | None,
        IF_ANY,
        Option("Ranks of modules that differ from --rank.", metavar="MODULE=R,…", kept=True, planned=True),
    ] = None
    #: α of modules that differ from `alpha`, written in the same way. Without alpha, modules in rank_pattern get
    #: 2·rank, with their own rank.
    alpha_pattern: Annotated[
        Alphas | None,
        IF_ANY,
        Option("Alphas of modules that differ from --alpha.", metavar="MODULE=A,…", kept=True, planned=True),
    ] = None
    #: Numbers of the layers whose modules are adapted, from 0: "0-3,8"; the ranges have at most 65,536 together, and the record
    #: has the modules' whole names. None: all.
    layers_to_transform: Annotated[
        Numbers | None,
        IF_ANY,
        Option("The layers whose modules are adapted.", default="all", metavar="0-3,8", kept=True, planned=True),
    ] = None
    #: Biases of the base that are trained too: "all" of them, or "lora_only", those of the adapted modules.
    bias: Annotated[
        Literal["none", "all", "lora_only"],
        Field(exclude_if=lambda value: value == "none"),
        Option("Train biases too: all, or those of adapted modules.", kept=True, planned=True),
    ] = "none"
    #: Modules that are trained and stored whole: names separated by commas, such as "lm_head,model.norm".
    modules_to_save: Annotated[
        ModuleNames | None,
        IF_ANY,
        Option("Modules to train and store whole.", metavar="NAMES", kept=True, planned=True),
    ] = None
    #: Tokens whose rows of the input embedding are trained, by id: "5,100-103".
    trainable_token_indices: Annotated[
        Numbers | None,
        IF_ANY,
        Option("Tokens whose embedding is trained, by id.", metavar="5,100-103", kept=True, planned=True),
    ] = None
    #: Which tokens are supervised: the loss is computed on them. None: completion, assistant or all, by the shape of the rows. "answer": of
    #: conversations the answers without their reasoning, "reasoning": with it, and each must have one.
    loss_on: LearntOn | None = None
    #: Which columns of the data are which keys of a row, as "prompt=question,completion=answer"; other columns are left
    #: out. None: the keys are called as the columns.
    columns: Annotated[
        Columns | None,
        IF_SET,
        Option(
            "Which columns are which keys: prompt=question,completion=answer.",
            metavar="KEY=COLUMN,…",
            of_loss=True,
            of_rows=True,
        ),
    ] = None
    #: Passes over the data; ignored if max_steps is given.
    epochs: Annotated[float, Field(gt=0, le=1000)] | None = 3.0
    #: Optimiser steps.
    max_steps: Annotated[
        Annotated[int, Field(ge=1, le=10_000_000)] | None, Option("Optimiser steps, instead of epochs.")
    ] = None
    #: Peak learning rate.
    lr: Annotated[float, Field(gt=0, le=1), Option("Peak learning rate.", default="2e-4", planned=True)] = 2e-4
    #: Share of the steps in which the learning rate rises from zero.
    warmup_ratio: Annotated[
        float, Field(ge=0, lt=1), Option("Warm-up: share of the steps in which lr rises from zero.")
    ] = 0.03
    #: How the learning rate changes after the warm-up. "wsd" keeps it until decay_share of the steps are left, and lowers it
    #: by the root of their share that is done (arXiv:2405.18392); "inverse_sqrt" has √(w/t) of the peak at step t, after
    #: a warm-up of w steps.
    schedule: Annotated[ScheduleName, Option("Course of lr after the warm-up.")] = "cosine"
    #: The share of the peak that the rate falls towards, with any schedule but linear and constant; 0: towards none.
    lr_floor: Annotated[
        float, Field(ge=0, lt=1), IF_ANY, Option("Share of --lr that it falls towards.", alone=True)
    ] = 0.0
    #: cosine_restarts: how often the rate falls along a cosine, each time from the peak.
    cycles: Annotated[
        Annotated[int, Field(ge=1, le=10_000)] | None,
        IF_ANY,
        Option("cosine_restarts: how often lr falls from its peak.", alone=True),
    ] = None
    #: wsd: share of all steps at the end in which the rate falls.
    decay_share: Annotated[
        float,
        Field(gt=0, le=1, exclude_if=lambda value: value == DEFAULT_DECAY_SHARE),
        Option("wsd: share of the steps in which lr falls.", alone=True),
    ] = DEFAULT_DECAY_SHARE
    #: AdamW with its moments in 32 or 8 bits, and only in the GPU's memory or paged out to the machine's when that is
    #: full: all but "adamw" of these need a CUDA GPU, and the job goes to a worker that has one. "adafactor" is torch's,
    #: "lion" has β₁ 0.9 and β₂ 0.99, and "schedule_free_adamw" publishes the average of its weights and needs schedule
    #: "constant"; these two need workers with the extras lion and schedule-free.
    optim: Annotated[
        OptimizerName,
        Field(exclude_if=lambda value: value == "adamw"),
        Option(
            "adamw; adamw_8bit, paged_adamw or paged_adamw_8bit on a CUDA GPU; adafactor, lion or schedule_free_adamw.",
            metavar="NAME",
            alone=True,
            planned=True,
        ),
    ] = "adamw"
    #: LoRA+: each B learns at this many times the rate of its A, and so do magnitudes, biases and norms (arXiv:2402.12354).
    loraplus_lr_ratio: Annotated[
        Annotated[float, Field(ge=1, le=1024)] | None,
        IF_ANY,
        Option("LoRA+: each B learns at this many times --lr.", alone=True),
    ] = None
    #: Share of each matrix that a step at a learning rate of 1 would subtract; biases, norms and magnitudes are not decayed.
    weight_decay: Annotated[
        float, Field(ge=0, le=1), IF_ANY, Option("Weight decay of matrices, decoupled as AdamW's.", alone=True)
    ] = 0.0
    #: The total norm to which a step's gradients are clipped; 0: no clipping.
    max_grad_norm: Annotated[
        float,
        Field(ge=0, le=1e6, exclude_if=lambda value: value == 1.0),
        Option("Norm that gradients are clipped to; 0 for none.", alone=True),
    ] = 1.0
    #: AdamW's β₁: the share of the gradients' running mean that it keeps at each step.
    adam_beta1: Annotated[float, Field(ge=0, lt=1, exclude_if=lambda value: value == 0.9), Option("", alone=True)] = 0.9
    #: AdamW's β₂: the same for squared gradients.
    adam_beta2: Annotated[float, Field(ge=0, lt=1, exclude_if=lambda value: value == 0.999), Option("", alone=True)] = (
        0.999
    )
    #: NEFTune: noise is added to the embeddings in training, uniform within ±α/√(length · dimension); the length is
    #: that of the longest row in the forward pass (arXiv:2310.05914).
    neftune_noise_alpha: Annotated[
        Annotated[float, Field(gt=0, le=1000)] | None,
        IF_ANY,
        Option("NEFTune: noise on embeddings while training, such as 5.", alone=True),
    ] = None
    #: Rows in one forward pass.
    batch_size: Annotated[
        int, Field(ge=1, le=4096), Option("Rows in one forward pass.", planned="as many of 4 as fit")
    ] = 4
    #: Forward passes summed into one optimiser step.
    grad_accum: Annotated[
        int, Field(ge=1, le=4096), Option("Gradient accumulation: forward passes per optimiser step.", planned=True)
    ] = 4
    #: Whether short rows share a sequence of at most batch_size longest rows' tokens, without padding: "on"; "auto" if that
    #: means less computation than rows sorted by length. It is not done over bases that don't keep such rows apart. None: "auto" on a CPU, and "off" on a GPU.
    packing: Annotated[
        Literal["off", "auto", "on"] | None,
        IF_SET,
        Option(
            "Packing: short rows share a sequence, without padding; auto: where that is less to compute.",
            default="auto on a CPU, off on a GPU",
            resolved=True,
            alone=True,
        ),
    ] = None
    #: Longest row in tokens; longer ones are truncated at the end, and rows of {text} split.
    max_length: Annotated[int, Field(ge=8, le=1_048_576)] | None = 1024
    #: Seed of initialisation, order and dropout.
    seed: Annotated[int, Field(ge=0, le=2**32 - 1), Option("")] = 0

    def passes_in_words(self) -> str:
        """Return how often the rows were learnt, "3 epochs"; "" if it wasn't given."""
        return f"{self.epochs:g} epochs" if "epochs" in self.model_fields_set and self.epochs else ""

    def batch_in_words(self) -> str:
        """Return rows of a forward pass by passes of a step, "4 × 4"; "" if they weren't given."""
        is_given = {"batch_size", "grad_accum"} <= self.model_fields_set
        return f"{self.batch_size} × {self.grad_accum}" if is_given else ""


class TrainingSpec(TrainingFields):
    """One training, as requested. Defaults are common starting points; None is resolved by the job."""

    objective: Annotated[
        Objective | None,
        IF_SET,
        Option(
            "Predict the next token (sft) or the label of {text, label} rows (classify); prefer the chosen answers of {prompt, chosen,"
            " rejected} rows (dpo, ipo, orpo, simpo), or the true ones of {prompt, completion, label} rows (kto).",
            default="by the rows; dpo for pairs",
            resolved=True,
            planned="sft",
            of_loss=True,
            of_rows=True,
        ),
    ] = None
    loss_on: Annotated[
        LossOn | None,
        Option(
            "Which tokens are supervised: the loss is computed on them.",
            default="by the shape of the rows",
            resolved=True,
            of_loss=True,
        ),
    ] = None
    epochs: Annotated[float, Field(gt=0, le=1000), Option("Passes over the rows.")] = 3.0
    max_length: Annotated[
        int,
        Field(ge=8, le=1_048_576),
        Option("Longest row, in tokens; longer ones are truncated, or texts split.", planned=True, of_loss=True),
    ] = 1024
    #: To how many of the held-out prompts the adapter writes an answer at each look, one at a time and of up to 64 tokens: each
    #: takes about as long as that many steps of one row. Nothing depends on it, so it is not recorded.
    samples: Annotated[int, Field(ge=0, le=16), IF_ANY, Option("Answers to held-out prompts that each look keeps.")] = 0
    #: The trackers to which the points of the series are forwarded while it trains: "mlflow", or several with commas. The job
    #: goes to a worker that has their libraries. Nothing depends on it, so it is not recorded.
    report_to: Annotated[
        ReportTo | None,
        IF_ANY,
        Option("Forward the series to experiment trackers, several with commas.", metavar="|".join(TRACKERS)),
    ] = None

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
    def _options_go_together(self, info: ValidationInfo) -> Self:
        if said := clash_of(self, self.model_fields_set if info.context is BY_HAND else ()):
            raise ValueError(said)
        return self

    @property
    def most_rank(self) -> int:
        """The largest rank that EVA may give a module: rank · eva_rho, rounded as in PEFT."""
        return min(MOST_RANK, round(self.rank * self.eva_rho))

    @property
    def moves_ranks(self) -> bool:
        """Whether EVA moves ranks between modules."""
        return self.eva_rho > 1

    @property
    def optimizer(self) -> Optimizer:
        """What is known of the optimiser."""
        return OPTIMIZERS[self.optim]

    @property
    def effective_batch(self) -> int:
        """Rows in one optimiser step."""
        return self.batch_size * self.grad_accum

    def steps_over(self, rows: int) -> int:
        """Return how many optimiser steps a training over so many rows an epoch has."""
        return self.max_steps or max(1, ceil(ceil(rows / self.effective_batch) * self.epochs))

    @property
    def resolved_alpha(self) -> float:
        """α of the modules that no pattern matches."""
        return float(self.alpha if self.alpha is not None else 2 * self.rank)

    @property
    def packs_scales(self) -> bool:
        """Whether scales are quantised too; never for int8, which has few."""
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
        """α of the modules that have their own; without `alpha` this includes all modules with their own rank."""
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

    @property
    def of_lora(self) -> dict[str, Any]:
        """The fields of a LoRA record that follow from the options alone."""
        return {
            **self.model_dump(include={"rank", "dropout", "use_rslora", "use_dora", "bias"}),
            "alpha": self.resolved_alpha,
            "rank_pattern": self.ranks,
            "alpha_pattern": self.alphas,
            "trainable_token_indices": self.tokens,
        }

    @property
    def trackers(self) -> list[TrackerName]:
        """The trackers to which points are forwarded."""
        return [name for name in TRACKERS if name in (self.report_to or "").split(",")]

    @property
    def of_looks(self) -> list[str]:
        """Names of the options that are given and need held-out rows."""
        return sorted(self.chosen & {*WatchFields.model_fields, "samples"})

    @property
    def chosen(self) -> frozenset[str]:
        """Names of the options that have a value, and of those that not every training has, another one than the default."""
        return frozenset(self.model_dump(exclude_none=True))

    def recorded(self) -> dict[str, JsonScalar]:
        """Return what the record of such a training has, by name. What the job resolves is not in it: None, and the
        length of rows, which a base may lower.
        """
        found: dict[str, JsonScalar] = self.model_dump(mode="json", exclude={"max_length", *WITHOUT_EFFECT})
        found |= {"alpha": self.resolved_alpha, "effective_batch": self.effective_batch}
        if self.chat_template is not None:
            found["chat_template"] = template_digest(self.chat_template)
        if self.max_steps is not None:
            found |= {"epochs": None, "total_steps": self.max_steps}
        return {name: value for name, value in found.items() if value is not None or not _OPTIONS[name].resolved}


def clash_of(spec: TrainingSpec, given: Collection[str] = ()) -> str | None:
    """Say which options of a spec contradict each other, and what to do; None if they may go together.

    `given` are those that a person wrote, of which a default is no less said than another value.
    """
    if spec.use_rslora and spec.alpha is None:
        return (
            f"use_rslora scales the update by alpha/√rank, for which the usual alpha of 2·rank is too large; give alpha, such as "
            f"{max(1, round(2 * spec.rank**0.5))} for the scale 2"
        )
    quantising = not OF_RECIPE.isdisjoint(given) or spec.quant_type != "nf4" or not spec.double_quant
    if spec.method == "lora" and quantising:
        return "quant_type and double_quant say how qlora quantises the base, and the method is lora; leave them out, or choose qlora"
    if spec.quant_type == "int8" and not spec.double_quant:
        return "int8 has a scale for each row, and none of these is quantised; leave double_quant out"
    if spec.eva_rho != 1 and spec.init_lora_weights is None:
        return "eva_rho moves ranks between modules whose A starts by EVA; give init_lora_weights eva, or leave eva_rho out"
    if spec.eva_rho != 1 and (spec.rank_pattern is not None or spec.alpha_pattern is not None):
        return "eva_rho chooses the ranks of modules, and rank_pattern and alpha_pattern say them; give one of the two"
    if spec.eva_rho != 1 and (spec.rank == 1 or spec.most_rank <= spec.rank):
        return (
            f"with rank {spec.rank} and eva_rho {spec.eva_rho:g} each module has the rank {spec.rank}: none may have less than 1, or more than "
            f"{spec.most_rank}; give a larger rank or eva_rho, or leave eva_rho out"
        )
    if same := same_module(spec.alphas):
        name, other = same
        return f"rank_pattern has {name} and alpha_pattern {other}, which mean the same module; use one name in both, or give alpha"
    if said := spec.clash_of_holdout or spec.clash_of_watching(spec.max_steps):
        return said
    if said := _clash_of_steps(spec, given):
        return said
    saved = (spec.modules_to_save or "").split(",")
    if spec.bias != "none" and spec.modules_to_save is not None:
        return f"PEFT saves biases of modules_to_save twice under bias {spec.bias!r}; give one of the two"
    if spec.bias != "none" and spec.objective == "classify":
        return f"a classification has a head in modules_to_save, of which PEFT saves biases twice; leave bias {spec.bias!r} out"
    if spec.objective == "classify" and spec.of_template:
        return f"classify renders no conversations with a chat template; leave {' and '.join(spec.of_template)} out"
    if spec.objective is not None and (said := _clash_with_objective(spec, spec.objective, given)):
        return said
    if spec.packing in ("auto", "on") and spec.neftune_noise_alpha is not None:
        return "the noise of neftune_noise_alpha depends on the length of a sequence, which packing changes; leave one of the two out"
    embedding = next((name for name in saved if name.rpartition(".")[2] in INPUT_EMBEDDINGS), None)
    if embedding and spec.trainable_token_indices is not None:
        return f"modules_to_save trains all of {embedding}, and trainable_token_indices some of its rows; give one of the two"
    named = [*saved, *spec.targets.split(",")] if spec.add_tokens is not None else []
    if both := next((name for name in named if name.rpartition(".")[2] in (*INPUT_EMBEDDINGS, *HEADS)), None):
        return f"add_tokens trains the rows of its tokens in {both}, which modules_to_save or targets train too; leave {both} out"
    return None


def _clash_with_objective(spec: TrainingSpec, objective: str, given: Collection[str]) -> str | None:
    """Say which options an objective has no use for."""
    traits = traits_of(objective)
    for option in sorted(_OF_OBJECTIVES & {*spec.chosen, *given} - traits.options):
        users = ", ".join(name for name, other in OBJECTIVES.items() if option in other.options)
        return f"{option} is an option of {users}, and the objective is {objective}; leave it out, or choose another objective"
    if traits.has_reference and spec.neftune_noise_alpha is not None:
        return f"neftune_noise_alpha puts noise on what {objective} compares with the base; leave it out"
    if spec.packing in ("auto", "on") and not traits.packs:
        return f"packing puts rows into one sequence, and {objective} looks at whole sequences; leave it out"
    if spec.effective_batch < traits.least_rows:
        return (
            f"{objective} compares the answers of a step with one another, and batch_size · grad_accum is {spec.effective_batch}; give "
            f"at least {traits.least_rows}"
        )
    return None


#: Options that not every objective has.
_OF_OBJECTIVES = frozenset[str]().union(*(traits.options for traits in OBJECTIVES.values()))


def _clash_of_steps(spec: TrainingSpec, given: Collection[str]) -> str | None:
    """Say which options of optimiser and schedule contradict each other."""
    given = {*given, *spec.chosen}
    if said := clash_of_schedule(
        spec.schedule, given, warmup_ratio=spec.warmup_ratio, cycles=spec.cycles, decay_share=spec.decay_share
    ):
        return said
    odd = next((name for name in ("adam_beta1", "adam_beta2") if name in given), None)
    if odd is not None and not spec.optimizer.is_adam:
        return f"{odd} is an option of AdamW, and optim is {spec.optim}; leave it out, or choose adamw"
    if spec.optimizer.averages and spec.schedule != "constant":
        return (
            f"{spec.optim} averages weights in place of a schedule, and the schedule is {spec.schedule}; give schedule"
            " constant, after whatever warm-up"
        )
    if spec.optimizer.averages and spec.adam_beta1 == 0:
        return f"{spec.optim} finds its average by dividing by adam_beta1; give one above 0"
    if spec.max_steps is not None:
        return clash_of_cycles(spec.cycles, warmup_ratio=spec.warmup_ratio, total=spec.max_steps)
    return None


_OPTIONS = options_of(TrainingSpec)
#: Names of those that say how a base is quantised.
OF_RECIPE = frozenset({"quant_type", "double_quant"})
#: Names of the options that a plan depends on or checks.
PLANNED = frozenset(name for name, option in _OPTIONS.items() if option.planned)
#: Those that only a training of an adapter has.
OF_ADAPTERS = frozenset(name for name in PLANNED if _OPTIONS[name].kept) | {"dropout"}
#: Those on which nothing that is made depends: they are not recorded, and a training that goes on may have others.
WITHOUT_EFFECT = frozenset({"samples", "report_to"})
#: Those that losses depend on.
OF_LOSS = tuple(name for name, option in _OPTIONS.items() if option.of_loss)
