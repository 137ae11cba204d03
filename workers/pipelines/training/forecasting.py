"""What a training should take by the planner's formulas, given the rows that it has read and the base in memory; and whether activations
are kept or computed twice, by the same formulas and the available memory.
"""

from __future__ import annotations

from typing import Any

import torch

from sdk.formats.option_texts import write_values
from sdk.lora.planning.adapter import TOKENS_DELTA, AdaptedModule, AdapterPlan, adapter_of
from sdk.lora.planning.blueprint import ModelShapes, blueprint_of
from sdk.lora.planning.families import ConfigError
from sdk.lora.planning.footprint import pass_parts, rows_bytes
from sdk.lora.planning.forecast import CONTEXT_BYTES, PROCESS_BYTES, Run, forecast_of, keeps_activations
from sdk.lora.planning.job_forecasts import NotKnownError, known_blueprint, without_head
from sdk.lora.targets import TargetsError
from sdk.schemas.planning import Forecast
from workers.pipelines.data.examples import Example
from workers.pipelines.data.stored_examples import longest_examples, longest_of
from workers.pipelines.model.blueprint import read_blueprint
from workers.pipelines.model.device import DTYPES
from workers.pipelines.model.loading import LoadedBase
from workers.pipelines.orders import Fit
from workers.pipelines.training.fitting import Fitting
from workers.pipelines.training.inputs import Inputs


def forecast_bytes(given: Inputs, loaded: LoadedBase, fitting: Fitting) -> int | None:
    """Return what the device's own count of the peak should be; None for a base without a forecast, and if memory ran
    out, since then the peak belongs to another pass.

    On a card the allocator counts tensors but not the context; in main memory the process counts too.
    """
    found = None if fitting.steps else forecast(given, loaded, fitting.fit)
    if found is None:
        return None
    return found.needed_bytes - (CONTEXT_BYTES if given.device.kind == "cuda" else 0)


def forecast(given: Inputs, loaded: LoadedBase, fit: Fit) -> Forecast | None:
    """Return the parts of that forecast, for the longest rows."""
    config = loaded.model.config.get_text_config()
    moved = {"rank_pattern": write_values(given.lora.rank_pattern)} if given.lora.rank_pattern else {}
    spec = given.spec.model_copy(update={"objective": given.objective.name, **moved})
    try:
        base = known_blueprint(config.to_dict(), {})
    except NotKnownError:
        shapes = read_blueprint(given.order.base, given.classes).shapes
        try:
            base = known_blueprint(config.to_dict(), {name: list(shape) for name, shape in shapes.items()})
        except NotKnownError:
            return None
    base = base if given.objective.traits.predicts_tokens else without_head(base)
    try:
        adapter = adapter_of(base, spec)
    except TargetsError:
        return None
    rows = _longest_rows(given, fit.micro_rows)
    length = max(len(example.input_ids) for example in rows)
    run = Run(
        spec=spec,
        # A widened base takes as much as without quantisation.
        method="qlora" if loaded.held == "packed" else "lora",
        batch_size=max(1, len(rows) // given.objective.sequences),
        max_length=length,
        checkpointing=fit.checkpointing,
        place="cuda" if given.device.kind == "cuda" else "cpu",
        width=torch.finfo(DTYPES[loaded.dtype]).bits // 8,
        attention="eager" if config._attn_implementation == "eager" else "sdpa",
        logit_chunk_tokens=fit.chunk_tokens or sum(len(example.input_ids) for example in rows),
        supervised_tokens=None
        if given.objective.traits.learns_prompts
        else sum(example.supervised_tokens for example in rows),
        process_bytes=given.process_bytes or PROCESS_BYTES,
    )
    return forecast_of(base, adapter, run)


def _longest_rows(given: Inputs, micro_rows: int) -> list[Example]:
    """Return the sequences of the pass that takes most: every training has one with the longest rows together."""
    return longest_examples(given.rows.examples, micro_rows * given.objective.sequences)


def needs_checkpointing(given: Inputs, loaded: LoadedBase, model: Any, fit: Fit) -> bool:
    """Whether the activations of the longest forward pass would not fit, so that they must be computed twice.

    `model` has its adapters. This only chooses between speed and memory.
    """
    longest = longest_of(given.rows.examples)
    try:
        blueprint = blueprint_in(loaded.model)
    except ConfigError:
        # Nothing can be forecast; computing twice only costs time.
        return True
    adapter = adapter_in(model, tied=blueprint.tied and given.objective.traits.predicts_tokens)
    width = torch.finfo(DTYPES[loaded.dtype]).bits // 8
    parts = pass_parts(
        blueprint,
        adapter,
        tokens=longest * min(fit.micro_rows * given.objective.sequences, len(given.rows.examples)),
        length=longest,
        checkpointing=False,
        width=width,
        attention="eager" if loaded.model.config.get_text_config()._attn_implementation == "eager" else "sdpa",
        dropout=given.spec.dropout,
        place="cuda" if given.device.kind == "cuda" else "cpu",
        chunk_tokens=fit.chunk_tokens,
        predicts_tokens=given.objective.traits.predicts_tokens,
    )
    rows = rows_bytes(blueprint, adapter, width=width, logits=parts["logits"])
    return not keeps_activations(sum(parts.values()) + rows, free_bytes=given.device.available_memory_bytes())


def blueprint_in(model: Any) -> ModelShapes:
    """Return the blueprint of a base in memory. Raises ConfigError for a config without the usual numbers."""
    config = model.config.get_text_config()
    # A family may have other names for these; the config object maps them.
    named = {name: getattr(config, name, None) for name in ("hidden_size", "num_hidden_layers", "vocab_size")}
    shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    return blueprint_of(config.to_dict() | named, shapes)


def adapter_in(model: Any, *, tied: bool = False) -> AdapterPlan:
    """Return the shapes of a model's A and B, (r, in) and (out, r), and of rows that are trained, (tokens, hidden); `tied`:
    its logits come from the input embedding.
    """
    found = {}
    for name, module in model.named_modules():
        for key, a in getattr(module, "lora_A", {}).items():
            (rank, into), out = a.weight.shape[:2], module.lora_B[key].weight.shape[0]
            found[name] = AdaptedModule(rank, out, into, 1, dora=key in module.lora_magnitude_vector)
    rows = {
        name.rpartition(".")[0]: list(parameter.shape)
        for name, parameter in model.named_parameters()
        if name.rpartition(".")[0].endswith(TOKENS_DELTA)
    }
    return AdapterPlan(found, rows, [], tied)
