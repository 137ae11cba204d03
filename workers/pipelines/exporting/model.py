"""A whole model as a GGUF file: matrices in the requested type, norms in f32."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from sdk.errors import InvalidBase, InvalidInput
from sdk.formats.base_files import INDEX_FILE, SINGLE_FILE, BadBaseError, check_index, read_index, weight_map
from sdk.formats.safetensors import ITEM_BYTES, SafetensorsError
from sdk.lora.gguf_models import GgufModel, Rope, longest_context, norm_epsilon, rope_of, whole_model
from sdk.lora.tensors import Columns, Tensor, open_file
from sdk.schemas.export import ExportReport, ExportRequest, GgufDtype
from workers.pipelines.exporting.gguf_file import (
    Planned,
    Value,
    WrittenGguf,
    described,
    differs,
    gguf_name,
    number,
    read_again,
    real,
    text,
    whole,
    write,
)
from workers.pipelines.exporting.numbers import (
    SAME_DTYPE,
    exact,
    halves,
    neighbours,
    rounded,
    rounding_error,
    row_blocks,
)
from workers.pipelines.exporting.tokenizer import tokenizer_keys

_TEMPLATE_NOTE = (
    "the folder has no chat template, so the file has none; llama.cpp then formats conversations by a template of its own, unless "
    "it is given one: --chat-template-file FILE"
)
_ROPE_FACTORS = "rope_freqs.weight"


def export_model(request: ExportRequest) -> ExportReport:
    """Write a model's file and read it back. Raises InvalidInput, InvalidBase, VerificationFailed, PipelineError, OSError."""
    config, folder, out = request.config, Path(request.folder), Path(request.out)
    model = whole_model(config)
    tensors, shapes = open_model(folder), model_shapes(model, config)
    check_tensors(tensors, shapes, tied=model.tied)
    dtype = request.dtype or _own_dtype(tensors, shapes)
    given = None if request.tokenizer_from is None else Path(request.tokenizer_from)
    tokenizer, pre = tokenizer_keys(folder, model.vocabulary, given)
    context, shortened = longest_context(config)
    keys = _keys(request.name, model, config, context, dtype) | tokenizer
    planned = [_planned(tensors, name, model, dtype) for name in shapes]
    factors = rope_factors(rope_of(config), model.head_dim)
    if factors is not None:
        planned.append(whole(_ROPE_FACTORS, factors, "f32"))
    write(out, model.architecture, keys, planned)
    worst = read_back(out, keys, tensors, shapes, model, dtype, factors)
    return ExportReport(
        architecture=model.architecture,
        dtype=dtype,
        tensors=len(planned),
        size_bytes=out.stat().st_size,
        pre_tokenizer=pre,
        rounding=worst,
        notes=[
            *([_window_note(context, model.title)] if shortened else []),
            *([] if gguf.Keys.Tokenizer.CHAT_TEMPLATE in tokenizer else [_TEMPLATE_NOTE]),
        ],
    )


def _window_note(context: int, title: str) -> str:
    return f"the file gives a context of {context} tokens, which is the model's sliding window, since llama.cpp has none for {title}"


def _keys(name: str, model: GgufModel, config: Mapping[str, Any], context: int, dtype: GgufDtype) -> dict[str, Value]:
    """Return the keys that describe a model."""
    rope = rope_of(config)
    numbers = {
        gguf.Keys.LLM.CONTEXT_LENGTH: context,
        gguf.Keys.LLM.EMBEDDING_LENGTH: model.hidden,
        gguf.Keys.LLM.BLOCK_COUNT: model.layers,
        gguf.Keys.LLM.FEED_FORWARD_LENGTH: model.feed_forward,
        gguf.Keys.LLM.VOCAB_SIZE: model.vocabulary,
        gguf.Keys.Attention.HEAD_COUNT: model.heads,
        gguf.Keys.Attention.HEAD_COUNT_KV: model.kv_heads,
        gguf.Keys.Attention.KEY_LENGTH: model.head_dim,
        gguf.Keys.Attention.VALUE_LENGTH: model.head_dim,
        gguf.Keys.Rope.DIMENSION_COUNT: model.head_dim,
    }
    found = {
        **described(gguf.GGUFType.MODEL, name, dtype),
        **{key.format(arch=model.architecture): number(value) for key, value in numbers.items()},
        gguf.Keys.Attention.LAYERNORM_RMS_EPS.format(arch=model.architecture): real(norm_epsilon(config)),
        gguf.Keys.Rope.FREQ_BASE.format(arch=model.architecture): real(rope.theta),
    }
    if rope.kind == "linear":
        found[gguf.Keys.Rope.SCALING_TYPE.format(arch=model.architecture)] = text("linear")
        found[gguf.Keys.Rope.SCALING_FACTOR.format(arch=model.architecture)] = real(rope.settings["factor"])
    return found


def rope_factors(rope: Rope, head_dim: int) -> npt.NDArray[Any] | None:
    """Return the divisor of each of a head's frequencies, (head_dim / 2,) in float32; None if all are 1.

    Llama 3.1: wavelengths longer than the original context divided by low_freq_factor are stretched by the factor, those shorter than it
    divided by high_freq_factor stay as they are, and in between the frequency is interpolated.
    """
    if rope.kind != "llama3":
        return None
    said = rope.settings
    low, high = said["low_freq_factor"], said["high_freq_factor"]
    if not high > low:
        raise InvalidInput(
            "the model's high_freq_factor is not above its low_freq_factor; correct config.json", param="target"
        )
    found = []
    for pair in range(head_dim // 2):
        wavelength = 2 * math.pi * rope.theta ** (2 * pair / head_dim)
        turns = said["original_max_position_embeddings"] / wavelength
        kept = min(1.0, max(0.0, (turns - low) / (high - low)))
        found.append(1.0 / ((1.0 - kept) / said["factor"] + kept))
    return np.array(found, dtype="<f4")


def _own_dtype(tensors: Tensors, shapes: Mapping[str, tuple[int, ...]]) -> GgufDtype:
    """Return the type of a model's matrices; f32, which holds both 16-bit types, if they have several."""
    found = {tensors[name].dtype for name, shape in shapes.items() if len(shape) > 1}
    return SAME_DTYPE.get(found.pop(), "f32") if len(found) == 1 else "f32"


def _dtype_of(shape: tuple[int, ...], dtype: GgufDtype) -> GgufDtype:
    """Return the type of a tensor; llama.cpp needs vectors in f32."""
    return dtype if len(shape) > 1 else "f32"


def _module(name: str) -> str:
    """Return the module of a layer that a tensor belongs to, such as "self_attn.q_proj"."""
    return ".".join(name.split(".")[-3:-1])


def _planned(tensors: Tensors, name: str, model: GgufModel, dtype: GgufDtype) -> Planned:
    tensor = tensors[name]
    written = _dtype_of(tensor.shape, dtype)

    def blocks() -> Iterator[npt.NDArray[Any]]:
        rows = tensor.rows()
        heads = model.heads_of(_module(name))
        order = None if heads is None else neighbours(len(rows.raw), heads)
        for part in row_blocks(*rows.raw.shape):
            block = Columns(rows.raw[part if order is None else order[part]], rows.dtype)
            yield rounded(block.widened(), written, called=name)

    return Planned(gguf_name(model, name), tensor.shape, written, blocks)


def read_back(
    path: Path,
    keys: Mapping[str, Value],
    tensors: Tensors,
    shapes: Mapping[str, tuple[int, ...]],
    model: GgufModel,
    dtype: GgufDtype,
    factors: npt.NDArray[Any] | None,
) -> float:
    """Compare a written file with a model's folder; return the largest error, as a share of what rounding allows.

    Raises VerificationFailed that names the tensor or the key.
    """
    names = {gguf_name(model, name): name for name in shapes}
    extra = set() if factors is None else {_ROPE_FACTORS}
    written, worst = read_again(path, model.architecture, names.keys() | extra, kind="model"), 0.0
    for key, (value, _, _) in keys.items():
        found = written.value(key)
        if found != (float(np.float32(value)) if isinstance(value, float) else value):
            raise differs(f"the key {key}", "model")
    if factors is not None and not np.array_equal(written.rows(_ROPE_FACTORS), factors):
        raise differs(f"the tensor {_ROPE_FACTORS}", "model")
    for called, name in names.items():
        share = _tensor_error(written, called, tensors, name, model, _dtype_of(shapes[name], dtype))
        if not share <= 1.0:
            raise differs(f"the tensor {name}", "model")
        worst = max(worst, share)
    return worst


def _tensor_error(
    written: WrittenGguf, called: str, tensors: Tensors, name: str, model: GgufModel, dtype: GgufDtype
) -> float:
    """Return a tensor's largest error, as a share of what rounding allows; infinity if its shape or type differs."""
    tensor = tensors[name]
    rows, found = tensor.rows(), written.rows(called)
    if written.dtype(called) != dtype or found.shape != tensor.shape:
        return math.inf
    matrix = found.reshape(rows.raw.shape)
    heads, worst = model.heads_of(_module(name)), 0.0
    # Whole heads at a time, since rows are reordered within them.
    size = 1 if heads is None else len(matrix) // heads
    for part in row_blocks(len(matrix) // size, rows.raw.shape[1] * size):
        part = slice(part.start * size, part.stop * size)
        block = matrix[part] if heads is None else halves(matrix[part], (part.stop - part.start) // size)
        values = Columns(rows.raw[part], rows.dtype).widened()
        if SAME_DTYPE.get(tensor.dtype) == dtype:
            worst = max(worst, 0.0 if np.array_equal(exact(block), values) else math.inf)
        else:
            worst = max(worst, rounding_error(block, values, dtype))
    return worst


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
