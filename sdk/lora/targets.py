"""Target presets to the real module names of an architecture, checked against the model itself or against its files.

>>> resolve_targets("qv", "llama", ["model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"])
['q_proj', 'v_proj']
>>> missing_targets("q_proj,nope", {"model.layers.0.self_attn.q_proj.weight": [64, 64]})
MissingTargets(names=['nope'], present=['q_proj'])
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sdk.schemas.training import TARGET_PRESETS

#: Preset to module names, for Llama and the many architectures that took over its names (Mistral, Qwen, Gemma …).
_LLAMA = {
    "qv": ("q_proj", "v_proj"),
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "all-linear": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
}
# GPT-2 has q, k and v in one matrix, and calls the last matrix of attention and of the MLP alike.
_GPT2 = {
    "qv": ("c_attn",),
    "attention": ("c_attn", "attn.c_proj"),
    "all-linear": ("c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"),
}
_BERT = {
    "qv": ("query", "value"),
    "attention": ("query", "key", "value"),
    "all-linear": ("query", "key", "value", "dense"),
}
_NEOX = {
    "qv": ("query_key_value",),
    "attention": ("query_key_value", "attention.dense"),
    "all-linear": ("query_key_value", "attention.dense", "dense_h_to_4h", "dense_4h_to_h"),
}
_FALCON = {
    "qv": ("query_key_value",),
    "attention": ("query_key_value", "self_attention.dense"),
    "all-linear": ("query_key_value", "self_attention.dense", "dense_h_to_4h", "dense_4h_to_h"),
}
_PHI3 = {
    "qv": ("qkv_proj",),
    "attention": ("qkv_proj", "o_proj"),
    "all-linear": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
}

#: `model_type` of a config to its table. What is missing here is taken for one of Llama's kin, and then checked.
FAMILIES = {
    "gpt2": _GPT2,
    "bert": _BERT,
    "roberta": _BERT,
    "gpt_neox": _NEOX,
    "falcon": _FALCON,
    "bloom": _FALCON,
    "phi3": _PHI3,
}

#: Parts of names of 2-dimensional weights that are no linear module inside a layer: embeddings and output heads.
_NOT_LINEAR = ("embed", "wte", "wpe", "lm_head", "norm")


class TargetsError(ValueError):
    """Targets that the model has no modules for; the message lists the names that it has."""


class MissingTargets(NamedTuple):
    """What targets name and a base lacks."""

    names: list[str]
    #: Linear modules that the base has.
    present: list[str]


def resolve_targets(targets: str, model_type: str, linear_names: Sequence[str]) -> list[str]:
    """Return the sorted module names that a preset or a comma-separated list means.

    `linear_names` are the full names of the model's linear modules, without its output head. Raises TargetsError
    when one of the wanted names matches none of them.
    """
    if targets in TARGET_PRESETS:
        wanted: Sequence[str] = FAMILIES.get(model_type, _LLAMA)[targets]
    else:
        wanted = targets.split(",")
    missing = [name for name in wanted if not any(matches(full, name) for full in linear_names)]
    if missing:
        asked = f"the preset {targets!r}" if targets in TARGET_PRESETS else "the targets"
        have = ", ".join(short_names(linear_names)) or "none"
        raise TargetsError(
            f"{', '.join(repr(name) for name in missing)} of {asked} match no linear module of this {model_type} model;"
            f" name some of these as targets: {have}.",
        )
    return sorted(set(wanted))


def matches(full_name: str, target: str) -> bool:
    """Say whether `target` names the module: wholly, or by its last parts, as PEFT reads a list of targets."""
    return full_name == target or full_name.endswith(f".{target}")


def short_names(linear_names: Sequence[str]) -> list[str]:
    """Return the distinct last parts of module names, with one more part where a name occurs in two places."""
    last: dict[str, set[str]] = {}
    for name in linear_names:
        parts = name.split(".")
        last.setdefault(parts[-1], set()).add(".".join(p for p in parts[-2:] if not p.isdigit()))
    return sorted(name for short, longer in last.items() for name in ({short} if len(longer) == 1 else longer))


def missing_targets(targets: str, tensors: Mapping[str, Sequence[int]]) -> MissingTargets | None:
    """Return the targets of which a base's weight files, shapes by name, hold nothing like it; None where all may be there.

    Presets, and bases of experts, whose weights a library may join under other names when it loads them, are left to
    `resolve_targets`, which is given the model's own names.
    """
    if targets in TARGET_PRESETS or any("expert" in name for name in tensors):
        return None
    weights = [
        name.removesuffix(".weight") for name, shape in tensors.items() if len(shape) == 2 and name.endswith(".weight")
    ]
    # Only the last part is held against the files: a model may put another prefix before the names of its files.
    last_parts = set(map(_last_part, weights))
    unknown = [name for name in targets.split(",") if _last_part(name) not in last_parts]
    if not weights or not unknown:
        return None
    return MissingTargets(unknown, sorted(set(map(_last_part, _linear(weights)))))


def _linear(names: Iterable[str]) -> list[str]:
    return [name for name in names if not any(part in _last_part(name) for part in _NOT_LINEAR)]


def _last_part(name: str) -> str:
    return name.rpartition(".")[2]
