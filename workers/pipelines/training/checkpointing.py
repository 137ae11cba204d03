"""Whether activations are kept or computed twice: the planner's forecast, compared with the available memory."""

from __future__ import annotations

from typing import Any

import torch

from sdk.lora.planning.adapter import AdaptedModule, AdapterPlan
from sdk.lora.planning.blueprint import Blueprint, blueprint_of
from sdk.lora.planning.checkpointing import keeps_activations
from sdk.lora.planning.families import ConfigError
from sdk.lora.planning.footprint import pass_parts
from workers.pipelines.data.stored_examples import longest_of
from workers.pipelines.model.device import DTYPES
from workers.pipelines.model.loading import LoadedBase
from workers.pipelines.training.inputs import Inputs
from workers.pipelines.training.order import Fit


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
    parts = pass_parts(
        blueprint,
        adapter_in(model),
        tokens=longest * min(fit.micro_rows * given.objective.sequences, len(given.rows.examples)),
        length=longest,
        checkpointing=False,
        width=torch.finfo(DTYPES[loaded.dtype]).bits // 8,
        attention="eager" if loaded.model.config.get_text_config()._attn_implementation == "eager" else "sdpa",
        dropout=given.spec.dropout,
        place="cuda" if given.device.kind == "cuda" else "cpu",
        chunk_tokens=fit.chunk_tokens,
        predicts_tokens=given.objective.name != "classify",
    )
    return not keeps_activations(sum(parts.values()), free_bytes=given.device.available_memory_bytes())


def blueprint_in(model: Any) -> Blueprint:
    """Return the blueprint of a base in memory. Raises ConfigError for a config without the usual numbers."""
    config = model.config.get_text_config()
    # A family may have other names for these; the config object maps them.
    named = {name: getattr(config, name, None) for name in ("hidden_size", "num_hidden_layers", "vocab_size")}
    shapes = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    return blueprint_of(config.to_dict() | named, shapes)


def adapter_in(model: Any) -> AdapterPlan:
    """Return the shapes of a model's A and B: (r, in) and (out, r)."""
    found = {}
    for name, module in model.named_modules():
        for key, a in getattr(module, "lora_A", {}).items():
            (rank, into), out = a.weight.shape[:2], module.lora_B[key].weight.shape[0]
            found[name] = AdaptedModule(rank, out, into, 1, dora=key in module.lora_magnitude_vector)
    return AdapterPlan(found, {}, [])
