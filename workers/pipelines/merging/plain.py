"""Plain merges, planned from the headers alone: LoRA on the linear layers of a Llama, Mistral, Qwen 2 or Qwen 3.

Importing PEFT and transformers takes longer than such a merge. Here everything that they would say of it is known: the names and
shapes of a model's parameters follow from its config, and the files must have exactly these; the adapter's config must have nothing
but settings with which W' = W + s·B·A. Whatever is otherwise in any way is not planned here: `plain` returns None, and PEFT decides,
or refuses. A plan is the same one, to its digest, that `prepare` makes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from sdk.formats.adapter_files import CONFIG_FILE as ADAPTER_CONFIG
from sdk.formats.adapter_files import TEMPLATE_FILE, VOCABULARY_FILES, WEIGHTS_FILE
from sdk.formats.base_files import CONFIG_FILE, BadBaseError
from sdk.formats.peft_config import MAX_CONFIG_BYTES, hazard
from sdk.formats.safetensors import SafetensorsError
from workers.pipelines.data.tokenizer import configured_stops, read_object
from workers.pipelines.merging.changes import Changes, Factor, LowRank
from workers.pipelines.merging.folder import merged_config
from workers.pipelines.merging.pieces import Piece, Placement, Shape
from workers.pipelines.merging.plain_blocks import LEAST_ROWS, MOST_RANK
from workers.pipelines.merging.plan import ResolvedMerge, plan_tensors
from workers.pipelines.merging.prepared import Prepared, prepared, require_scales
from workers.pipelines.merging.stored_base import FLOATS, open_files, open_stored_base
from workers.pipelines.model.dtype_names import DtypeName
from workers.pipelines.model.references import require_self_contained

_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
#: Keys of a base's config with which its model has other parts, or its files other weights.
_OTHER_MODELS = ("auto_map", "quantization_config", "compression_config", "text_config", "pruned_heads")
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_ATTENTION, _MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
#: What may be anything that PEFT takes in an adapter's config without a change of the sum.
_ANYTHING = frozenset({"base_model_name_or_path", "inference_mode", "peft_version", "qalora_group_size", "revision"})
#: What is read here.
_READ = frozenset({"lora_alpha", "lora_dropout", "r", "target_modules", "use_rslora"})
#: What must be one of these, if it is there; every other key must be null. Nothing else is as good as null to PEFT: with {} it uses
#: a variant by that variant's defaults, and 0 is a layer.
_ONLY: Mapping[str, tuple[Any, ...]] = {
    "alpha_pattern": ({},),
    "bias": ("none",),
    "ensure_weight_tying": (False,),
    "fan_in_fan_out": (False,),
    "init_lora_weights": (True, "gaussian"),
    "loftq_config": ({}, None),
    "lora_bias": (False,),
    "megatron_core": ("megatron.core", None),
    "peft_type": ("LORA",),
    "rank_pattern": ({},),
    "task_type": ("CAUSAL_LM",),
    "use_dora": (False,),
    "use_qalora": (False,),
}
_PREFIX = "base_model.model."


def plain(base: Path, adapter: Path) -> Prepared | None:
    """Return the plan of a merge onto a base's own weights; None if it isn't a plain one.

    Raises PipelineError for files that no merge reads.
    """
    require_self_contained(base)
    config, said = read_object(base / CONFIG_FILE), _adapter_config(adapter)
    if not config or not said or not _tokenizer_stays(base, adapter):
        return None
    shapes, dtype = _shapes(config), _dtype(config)
    if shapes is None or dtype is None:
        return None
    stored = open_stored_base(base)
    tied = bool(config.get("tie_word_embeddings", False))
    in_files = {name: shape for name, shape in shapes.items() if not (tied and name == _HEAD)}
    has = {name: tensor.shape for name, tensor in stored.tensors.items()}
    if stored.packed or has != in_files or any(each.dtype not in FLOATS for each in stored.tensors.values()):
        return None
    try:
        file = open_files(adapter, [WEIGHTS_FILE], any_dtype=False)
    except (OSError, BadBaseError, SafetensorsError):
        # The other way says what is wrong.
        return None
    changes = Changes(file, shapes, [[_EMBEDDING, _HEAD]] if tied else [])
    if not _take(changes, said):
        return None
    require_scales(adapter, changes)
    target = _onto_itself(dtype)
    pieces = {name: (_whole(name, shape),) for name, shape in in_files.items()}
    written, untied = plan_tensors(stored, Placement(pieces, frozenset(), frozenset()), changes, target)
    if untied:
        return None
    merged = merged_config(base, dtype=None, untied=False, vocabulary=None, labelled=None)
    plan = prepared(base, adapter, stored, changes, written, target, config=merged, dtype=dtype)
    return replace(plan, is_plain=True)


def _adapter_config(adapter: Path) -> dict[str, Any] | None:
    """Return an adapter's config; None for one that PEFT must not be given."""
    try:
        with (adapter / ADAPTER_CONFIG).open("rb") as file:
            raw = file.read(MAX_CONFIG_BYTES + 1)
        # As PEFT does; bytes alone would be read in other encodings too.
        said: dict[str, Any] = json.loads(raw.decode("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return None if hazard(raw) else said


def _onto_itself(dtype: DtypeName) -> ResolvedMerge:
    return ResolvedMerge(
        onto="original",
        dtype=None,
        stored=dtype,
        recipe=None,
        quantised=frozenset(),
        transposed=frozenset(),
        precisions={},
        trained={},
        drops_unused=False,
    )


def _whole(name: str, shape: Shape) -> Piece:
    zeros = (0,) * len(shape)
    return Piece(name, zeros, shape, tuple(range(len(shape))), zeros)


def _tokenizer_stays(base: Path, adapter: Path) -> bool:
    """Whether the merged model has its base's whole tokenizer, and stops and speaks as its base does."""
    if any((adapter / name).exists() for name in VOCABULARY_FILES) or (adapter / TEMPLATE_FILE).exists():
        return False
    if not set(configured_stops(adapter)) <= set(configured_stops(base)):
        return False
    try:
        known = json.loads((base / "tokenizer.json").read_bytes())
        settings = json.loads((base / "tokenizer_config.json").read_bytes())
        return bool(known["model"]["vocab"]) and bool(settings["eos_token"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False


def _dtype(config: Mapping[str, Any]) -> DtypeName | None:
    given = config.get("dtype", config.get("torch_dtype"))
    return next((name for name in get_args(DtypeName) if name == given), None)


#: No model of these kinds has nearly as many; a config that names a billion would fill the memory with names.
_MOST_LAYERS = 10_000


def _shapes(config: Mapping[str, Any]) -> dict[str, Shape] | None:
    """Return the shape of each parameter by its name, in the model's order; None for a model of another kind."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or config.get("architectures") != [_ARCHITECTURES.get(kind)]:
        return None
    if any(config.get(key) for key in _OTHER_MODELS) or not isinstance(config.get("tie_word_embeddings", False), bool):
        return None
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    sizes = [_count(config.get(name)) for name in (*names, "num_key_value_heads")]
    if not all(sizes) or config.get("mlp_bias") or (kind != "llama" and config.get("attention_bias")):
        return None
    words, width, inner, layers, heads, pairs = sizes
    if layers > _MOST_LAYERS:
        return None
    head = _count(config.get("head_dim"))
    if not head:
        # The default of a Qwen 3 is another.
        if kind == "qwen3" or config.get("head_dim") is not None or width % heads:
            return None
        head = width // heads
    queries, keys = heads * head, pairs * head
    found: dict[str, Shape] = {_EMBEDDING: (words, width)}
    outputs = {"q_proj": queries, "k_proj": keys, "v_proj": keys}
    for number in range(layers):
        layer = f"model.layers.{number}"
        for name in _ATTENTION:
            shape = (width, queries) if name == "o_proj" else (outputs[name], width)
            found[f"{layer}.self_attn.{name}.weight"] = shape
            if config.get("attention_bias") or (kind == "qwen2" and name != "o_proj"):
                found[f"{layer}.self_attn.{name}.bias"] = shape[:1]
        if kind == "qwen3":
            found |= {f"{layer}.self_attn.{name}.weight": (head,) for name in ("q_norm", "k_norm")}
        for name in _MLP:
            found[f"{layer}.mlp.{name}.weight"] = (width, inner) if name == "down_proj" else (inner, width)
        found |= {f"{layer}.{name}.weight": (width,) for name in ("input_layernorm", "post_attention_layernorm")}
    return found | {"model.norm.weight": (width,), _HEAD: (words, width)}


def _count(value: Any) -> int:
    """Return a whole number above 0; 0 for anything else."""
    return value if type(value) is int and value > 0 else 0


def _take(changes: Changes, said: Mapping[str, Any]) -> bool:
    """Collect the products that an adapter's config and matrices say; return whether they are all that there is."""
    scale = _scale(said)
    if scale is None:
        return False
    rank, file = said["r"], changes.file
    taken = set()
    for module in _targets(said["target_modules"], changes.shapes):
        parameter = f"{module}.weight"
        a, b = (f"{_PREFIX}{module}.lora_{half}.weight" for half in "AB")
        out, into = changes.shapes[parameter]
        if a not in file.tensors or b not in file.tensors:
            return False
        if file.shape(a) != (rank, into) or file.shape(b) != (out, rank):
            return False
        # What numpy would sum in another order than PEFT.
        if rank > MOST_RANK or out < LEAST_ROWS or into % LEAST_ROWS:
            return False
        taken |= {a, b}
        factors = Factor(b, (0, out, 1), (0, rank, 1)), Factor(a, (0, rank, 1), (0, into, 1))
        changes.add(parameter, LowRank(module, None, (0, out), (0, into), *factors, scale, across=False))
    return bool(taken) and taken == file.tensors.keys()


def _scale(said: Mapping[str, Any]) -> float | None:
    """Return s of an adapter's config, α/r or α/√r; None if anything in it could make the sum another one."""
    for key, value in said.items():
        if key in _ANYTHING or key in _READ:
            continue
        # 1 == True, and is no setting of PEFT.
        if not any(type(value) is type(one) and value == one for one in _ONLY.get(key, (None,))):
            return None
    if not isinstance(said.get("lora_dropout", 0.0), int | float):
        return None
    rank, alpha, by_root = _count(said.get("r")), said.get("lora_alpha"), said.get("use_rslora", False)
    if said.get("peft_type") != "LORA" or said.get("task_type") != "CAUSAL_LM" or not isinstance(by_root, bool):
        return None
    # A boolean is a number too.
    if not rank or not isinstance(alpha, int | float) or isinstance(alpha, bool) or not math.isfinite(alpha):
        return None
    targets = said.get("target_modules")
    if not isinstance(targets, list) or not targets or not all(isinstance(each, str) for each in targets):
        return None
    return float(alpha / math.sqrt(rank)) if by_root else float(alpha / rank)


def _targets(targets: list[str], shapes: Mapping[str, Shape]) -> Iterator[str]:
    """Yield the linear modules that PEFT adapts for a list of names; nothing if it would adapt anything else, or refuse.

    A name matches a module that it is, or whose name ends with it after a dot.
    """
    linear = {f".{name}" for name in (*_ATTENTION, *_MLP)}
    if not all(any(f".{target}".endswith(name) for name in linear) for target in targets):
        return
    for parameter in shapes:
        module = parameter.removesuffix(".weight")
        if module != parameter and any(module == each or module.endswith(f".{each}") for each in targets):
            yield module
