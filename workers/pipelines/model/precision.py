"""The real precision of a loaded base: how many of its parameters are in which precision, and how many bytes they take.

bitsandbytes packs linear modules. Embeddings, norms, the head, and experts that a model stores as one stacked parameter
stay as they are, so most of a mixture of experts may be in 16 bits.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers.core_model_loading import build_glob_alternation

#: Parameters of the model that are packed, by their type.
_PACKED = ("nf4", "fp4", "int8")


@dataclass(frozen=True)
class Share:
    """The parameters of a model with the same precision."""

    parameters: int
    #: Including the scales of packed weights.
    size_bytes: int


def shares_of(model: Any) -> dict[str, Share]:
    """Return which parameters of a model are in which precision, such as nf4 or bfloat16: packed ones first, then by name.

    A tied parameter counts once. The model must be as loaded, not widened yet.
    """
    found: dict[str, tuple[int, int]] = {}
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        if state is None:
            name, numbers = str(parameter.dtype).removeprefix("torch."), parameter.numel()
            size_bytes = parameter.numel() * parameter.element_size()
            if (rows := getattr(parameter, "SCB", None)) is not None:
                size_bytes += rows.numel() * rows.element_size()
        else:
            name, numbers = state.quant_type, math.prod(state.shape)
            scales = [state.absmax, *([state.state2.absmax] if state.nested else [])]
            size_bytes = sum(tensor.numel() * tensor.element_size() for tensor in (parameter, *scales))
        before = found.get(name, (0, 0))
        found[name] = before[0] + numbers, before[1] + size_bytes
    return {name: Share(*found[name]) for name in sorted(found, key=lambda name: (name not in _PACKED, name))}


def cast(model: Any, dtype: torch.dtype, *, but: Callable[[str], bool] = lambda name: False) -> None:
    """Convert to `dtype` what the library would load in it: neither packed weights nor what it keeps in float32, such
    as routers.

    Parameters for whose name `but` is true stay as they are.
    """
    wanted = dtypes_in(model, dtype)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if name in wanted and getattr(tensor, "quant_state", None) is None and not but(name):
            tensor.data = tensor.data.to(wanted[name])


def dtypes_in(model: Any, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """Return the type of each parameter and buffer when the library loads a model in `dtype`."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = type(model)._from_config(copy.deepcopy(model.config), dtype=dtype)
    plan = model._get_dtype_plan(dtype)
    planned = build_glob_alternation(list(plan))[0] if plan else None
    return {
        name: torch.float32 if planned is not None and planned.search(name) else tensor.dtype
        for name, tensor in (*made.named_parameters(), *made.named_buffers())
    }


def described(shares: Mapping[str, Share]) -> str:
    """Return in words which share of the parameters is in which precision, as `nf4 24.3 %, bfloat16 75.7 % of
    46,703,104 parameters`.
    """
    total = sum(share.parameters for share in shares.values())
    parts = (f"{name} {100 * share.parameters / total:.1f} %" for name, share in shares.items())
    return f"{', '.join(parts)} of {total:,} parameters"


def measured(shares: Mapping[str, Share]) -> dict[str, float]:
    """Return the shares as metrics: `base_nf4_parameters`, `base_nf4_bytes` and so on."""
    metrics: dict[str, float] = {}
    for name, share in shares.items():
        metrics[f"base_{name}_parameters"] = float(share.parameters)
        metrics[f"base_{name}_bytes"] = float(share.size_bytes)
    return metrics
