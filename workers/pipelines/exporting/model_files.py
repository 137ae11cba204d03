"""The weights in a model's folder, mapped into memory, and which of them the model consists of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdk.errors import InvalidBase
from sdk.formats.base_files import INDEX_FILE, SINGLE_FILE, BadBaseError, check_index, read_index, weight_map
from sdk.formats.safetensors import ITEM_BYTES, SafetensorsError
from sdk.lora.gguf_models import GgufModel
from sdk.lora.tensors import Tensor, open_file

_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj")
_FEED_FORWARD = ("gate_proj", "up_proj", "down_proj")
#: Saved by earlier releases of transformers; models compute it themselves.
_COMPUTED = ".rotary_emb.inv_freq"

Tensors = dict[str, Tensor]


def open_model(folder: Path) -> Tensors:
    """Return the tensors of a model's folder by name. Raises InvalidBase."""
    index, files = folder / INDEX_FILE, [SINGLE_FILE]
    if not index.is_file() and not (folder / SINGLE_FILE).is_file():
        pickled = min((path.name for path in folder.glob("pytorch_model*.bin")), default=None)
        raise InvalidBase(
            f"{folder} has no {SINGLE_FILE}"
            + (f", only {pickled}" if pickled else "")
            + "; save the model as safetensors",
            param="target",
        )
    try:
        if index.is_file():
            files = sorted(set(weight_map(read_index(index.read_bytes())).values()))
        opened = {name: open_file(folder / name, any_dtype=True).tensors() for name in files}
        if index.is_file():
            check_index(read_index(index.read_bytes()), opened)
    except (BadBaseError, SafetensorsError, FileNotFoundError) as error:
        raise InvalidBase(
            f"{folder} does not hold a whole model ({error}); give the folder of a model", param="target"
        ) from error
    return {name: tensor for tensors in opened.values() for name, tensor in tensors.items()}


def model_shapes(model: GgufModel, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor that a model consists of, by its name in transformers, in the order of the layers."""
    hidden = (model.hidden,)
    # transformers' Mistral and Qwen3 ignore these keys of the config, or such configs are refused.
    biased_kind = config.get("model_type") == "llama"
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": model.shape_of("embed_tokens")}
    for layer in range(model.layers):
        at = f"model.layers.{layer}"
        found[f"{at}.input_layernorm.weight"] = hidden
        for room, names, biased in (
            ("self_attn", _LINEAR, biased_kind and config.get("attention_bias") is True),
            ("mlp", _FEED_FORWARD, biased_kind and config.get("mlp_bias") is True),
        ):
            for name in names:
                shape = model.shape_of(f"{room}.{name}")
                found[f"{at}.{room}.{name}.weight"] = shape
                if biased:
                    found[f"{at}.{room}.{name}.bias"] = shape[:1]
        if model.architecture == "qwen3":
            found[f"{at}.self_attn.q_norm.weight"] = found[f"{at}.self_attn.k_norm.weight"] = (model.head_dim,)
        found[f"{at}.post_attention_layernorm.weight"] = hidden
    found["model.norm.weight"] = hidden
    if not model.tied:
        found["lm_head.weight"] = model.shape_of("lm_head")
    return found


def check_tensors(tensors: Tensors, shapes: Mapping[str, tuple[int, ...]], *, tied: bool) -> None:
    """Raise InvalidBase unless these are exactly the model's tensors, and none of them is packed."""
    # If the head is tied to the embeddings, nothing reads the copy that some files have.
    passed = {name for name in tensors if name.endswith(_COMPUTED) or (tied and name == "lm_head.weight")}
    for name in sorted(shapes.keys() ^ (tensors.keys() - passed)):
        raise InvalidBase(
            f"the tensor {name[:200]!a} is {'missing' if name in shapes else 'not one that the config implies'}, so the model "
            "can't be exported; give the folder of a whole model",
            param="target",
        )
    for name, shape in shapes.items():
        found = tensors[name]
        if found.shape != shape or found.dtype not in ITEM_BYTES:
            raise InvalidBase(
                f"the tensor {name[:200]!a} is {found.dtype} of {list(found.shape)}, but by the config it should be floating-point "
                f"numbers of {list(shape)}; merge with --onto dequantized, or correct the folder",
                param="target",
            )
