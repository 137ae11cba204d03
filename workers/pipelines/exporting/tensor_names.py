"""llama.cpp's names for transformers' tensors, from the map in gguf."""

from __future__ import annotations

from functools import cache
from typing import Any

import gguf

from sdk.errors import InvalidBase
from sdk.lora.gguf_models import GgufModel


def gguf_name(model: GgufModel, name: str) -> str:
    """Return a tensor's name in GGUF. Raises InvalidBase for one that the architecture does not have."""
    found = _names(model.architecture, model.layers).get_name(name, try_suffixes=(".weight", ".bias"))
    if found is None:
        raise InvalidBase(
            f"the tensor {name[:200]!a} has no place in a {model.architecture} model of llama.cpp; export another model",
            param="target",
        )
    return str(found)


@cache
def _names(architecture: str, layers: int) -> Any:
    kind = next(kind for kind, called in gguf.MODEL_ARCH_NAMES.items() if called == architecture)
    return gguf.get_tensor_name_map(kind, layers)
