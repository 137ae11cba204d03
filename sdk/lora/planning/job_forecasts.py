"""What a job takes on the worker that gets it: a forecast for a worker with a card, and one for a worker without.

>>> from sdk.schemas.training import TrainingSpec
>>> config = {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
...           "intermediate_size": 11008, "vocab_size": 32000}
>>> found = PlannedTraining(config, {}, TrainingSpec(method="lora", batch_size=8)).forecast()
>>> found.card is not None and f"{found.card.needed_bytes / 1e9:.1f} GB, most of it {found.card.largest.name}"
'18.2 GB, most of it weights'
>>> PlannedTraining({"model_type": "llama"}, {}, TrainingSpec()).forecast().unknown
"the base's config says no vocab_size"
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sdk.formats.base_files import positions_of
from sdk.formats.objectives import traits_of
from sdk.lora.experts import experts_share
from sdk.lora.planning.adapter import AdapterPlan, adapter_of
from sdk.lora.planning.blueprint import ModelShapes, UnknownFamilyError, blueprint_of
from sdk.lora.planning.families import ConfigError
from sdk.lora.planning.footprint import HALF
from sdk.lora.planning.forecast import PROCESS_BYTES, Run, evaluation_of, forecast_of
from sdk.lora.targets import TargetsError
from sdk.schemas.evaluation import EvaluationSpec
from sdk.schemas.planning import JobForecast
from sdk.schemas.training import TrainingSpec

#: Forecasts were up to this many times what was measured (docs/planning.md). A job is withheld from a worker only if
#: the worker would lack memory even then.
MOST_TOO_HIGH = 1.2
_HEAD = "lm_head.weight"
_WIDE = 4
_WIDTHS = {"float32": _WIDE, "bfloat16": HALF, "float16": HALF}
#: NF4 keeps 4 bits of 16 and a scale for each 64 weights; embeddings and norms stay as they are.
_QUANTIZED_SHARE = 0.3
Tensors = Mapping[str, list[int]]


class NotKnownError(ValueError):
    """No shapes are known of the base; the message is a sentence."""


class PlannedTraining:
    """A training over a base, whose shapes and adapted modules are looked up once for all forecasts of it."""

    def __init__(self, config: Mapping[str, Any], tensors: Tensors, spec: TrainingSpec) -> None:
        self.run = training_run(config, spec)
        #: The base and what is adapted in it, or why they are not known.
        self.shapes: tuple[ModelShapes, AdapterPlan] | str
        try:
            base = known_blueprint(config, tensors)
            base = base if traits_of(spec.objective).predicts_tokens else without_head(base)
            self.shapes = base, adapter_of(base, spec)
        except (NotKnownError, TargetsError) as error:
            self.shapes = str(error)

    def forecast(self, *, batch_size: int | None = None) -> JobForecast:
        """Return what it takes with its activations computed twice, as a worker does if it lacks the memory to keep
        them; with this many rows in a pass, if not with those of its spec.
        """
        if isinstance(self.shapes, str):
            return JobForecast(unknown=self.shapes)
        base, adapter = self.shapes
        run = replace(self.run, batch_size=batch_size or self.run.batch_size)
        card, machine = (forecast_of(base, adapter, each) for each in (run, replace(run, place="cpu")))
        return JobForecast(card=card, machine=None if run.spec.optimizer.needs_card else machine)


def evaluation_forecast(
    config: Mapping[str, Any], tensors: Tensors, spec: EvaluationSpec, *, quantized: bool
) -> JobForecast:
    """Return what an evaluation takes over one base."""
    try:
        base = known_blueprint(config, tensors)
    except NotKnownError as error:
        return JobForecast(unknown=str(error))
    run = Run(
        spec=TrainingSpec(),
        method="qlora" if quantized else "lora",
        batch_size=spec.batch_size,
        max_length=min(spec.max_length, positions_of(config) or spec.max_length),
        checkpointing=False,
        width=HALF if quantized else stored_width(config),
    )
    return JobForecast(card=evaluation_of(base, run), machine=evaluation_of(base, replace(run, place="cpu")))


def training_run(config: Mapping[str, Any], spec: TrainingSpec) -> Run:
    """Return how a training of exactly this spec runs on a card that lacks memory for its activations."""
    return Run(
        spec=spec,
        method=spec.method,
        batch_size=spec.batch_size,
        max_length=min(spec.max_length, positions_of(config) or spec.max_length),
        checkpointing=True,
        width=HALF if spec.method == "qlora" else stored_width(config),
    )


def known_blueprint(config: Mapping[str, Any], tensors: Tensors) -> ModelShapes:
    """Return the shapes of a base from its config, or from its files if its family is unknown. Raises NotKnownError."""
    try:
        try:
            return blueprint_of(config)
        except UnknownFamilyError:
            if not tensors:
                raise
            return blueprint_of(config, tensors)
    except ConfigError as error:
        raise NotKnownError(f"the base's config {error}") from error
    except UnknownFamilyError as error:
        raise NotKnownError(f"{error}, and the base was registered without the shapes of its files") from error


def weights_needs(size_bytes: int, config: Mapping[str, Any], tensors: Tensors, *, quantized: bool) -> int:
    """Return the least that is needed over a base of which only the size is known: the process, and the weights in memory.

    Quantised to NF4 they take 0.3 of their size: 4 bits of 16 with scales, and embeddings unchanged; stacked experts
    stay whole.
    """
    kept = 1.0
    if quantized:
        experts = experts_share(tensors) if counts_experts(config) and stored_width(config, _WIDE) == HALF else 0.0
        kept = experts + _QUANTIZED_SHARE * (1 - experts)
    return PROCESS_BYTES + int(kept * size_bytes)


def counts_experts(config: Mapping[str, Any]) -> bool:
    """Whether a config, or its text model's config, mentions experts."""
    text = config.get("text_config")
    return any("expert" in key for part in (config, text if isinstance(text, dict) else {}) for key in part)


def without_head(base: ModelShapes) -> ModelShapes:
    """Return the base of a classification, which has another head, with a row for each class."""
    return replace(base, tensors={name: shape for name, shape in base.tensors.items() if name != _HEAD})


def stored_width(config: Mapping[str, Any], default: int = HALF) -> int:
    """Return the bytes per stored number by the config's key for it, the current or the former one."""
    said = config.get("dtype", config.get("torch_dtype"))
    return _WIDTHS.get(said, default) if isinstance(said, str) else default
