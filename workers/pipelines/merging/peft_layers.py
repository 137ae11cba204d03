"""PEFT's layers over a model without weights, and which of them can't be merged exactly."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from peft import MODEL_TYPE_TO_PEFT_MODEL_MAPPING, PeftModel
from peft.tuners.lora.layer import Conv1d, Conv2d, Conv3d, Embedding, Linear, ParamWrapper
from peft.tuners.lora.variants import DoraConv1dVariant, DoraConv2dVariant, DoraConv3dVariant, DoraLinearVariant

from workers.pipelines.errors import first_line
from workers.pipelines.merging.changes import inexact
from workers.pipelines.model.adapters import unloadable

#: Variants of LoRA that scale the rows of the sum.
_DORA = (DoraLinearVariant, DoraConv1dVariant, DoraConv2dVariant, DoraConv3dVariant)
CONVOLUTIONS = (Conv1d, Conv2d, Conv3d)


def laid_over(model: Any, config: Any) -> Any:
    """Return PEFT's model over one without weights. Raises PipelineError ("adapter")."""
    # Each matrix comes from the file; some initialisations are impossible without weights.
    config.init_lora_weights = True
    maker = MODEL_TYPE_TO_PEFT_MODEL_MAPPING.get(config.task_type, PeftModel)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return maker(model, config, low_cpu_mem_usage=True)
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise unloadable(first_line(error)) from error


def embedding_names(model: Any) -> set[str]:
    """Return the names of the weights of embeddings and head."""
    modules = {
        id(module) for module in (model.get_input_embeddings(), model.get_output_embeddings()) if module is not None
    }
    return {f"{name}.weight" for name, module in model.named_modules(remove_duplicate=False) if id(module) in modules}


def shapes_of(layer: Any, adapter: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a layer's A and B."""
    if isinstance(layer, Embedding):
        pair = layer.lora_embedding_A[adapter], layer.lora_embedding_B[adapter]
    else:
        pair = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
    return {half: tuple(each.shape) for half, each in zip("AB", pair, strict=True)}


def require_known(name: str, layer: Any, adapter: str) -> None:
    """Raise PipelineError for a layer whose ΔW may be something other than s·B·A."""
    if not isinstance(layer, (Linear, Embedding, ParamWrapper, *CONVOLUTIONS)):
        raise inexact(name, f"is adapted as {type(layer).__name__}")
    if isinstance(layer, Embedding) and not _is_looked_up(layer.get_base_layer()):
        raise inexact(name, "is an embedding of another kind, to which PEFT does not add s·B·A")
    variant = layer.lora_variant.get(adapter)
    if variant is not None and not isinstance(variant, _DORA):
        raise inexact(name, f"is adapted by {type(variant).__name__.removesuffix('Variant')}")
    if isinstance(layer, CONVOLUTIONS) and getattr(layer.get_base_layer(), "groups", 1) != 1:
        raise inexact(name, "is a convolution of channels in groups")


def _is_looked_up(embedding: Any) -> bool:
    """Whether an embedding returns the rows of its weight, or multiples of them, which PEFT takes into account."""
    return type(embedding).forward is torch.nn.Embedding.forward or hasattr(embedding, "embed_scale")
