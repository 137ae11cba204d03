"""Target presets to the real module names of an architecture, checked against the model itself.

>>> resolve_targets("qv", "llama", ["model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"])
['q_proj', 'v_proj']
"""

from __future__ import annotations

from collections.abc import Sequence

from sdk.schemas.failures import FailureReason
from sdk.schemas.training import TARGET_PRESETS
from workers.pipelines.errors import PipelineError

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


def resolve_targets(targets: str, model_type: str, linear_names: Sequence[str]) -> list[str]:
    """Return the sorted module names that a preset or a comma-separated list means.

    `linear_names` are the full names of the model's linear modules, without its output head. Raises PipelineError
    ("targets") that lists the names which the model has, when one of the wanted names matches none of them.
    """
    if targets in TARGET_PRESETS:
        wanted: Sequence[str] = FAMILIES.get(model_type, _LLAMA)[targets]
    else:
        wanted = targets.split(",")
    missing = [name for name in wanted if not any(matches(full, name) for full in linear_names)]
    if missing:
        asked = f"the preset {targets!r}" if targets in TARGET_PRESETS else "the targets"
        have = ", ".join(short_names(linear_names)) or "none"
        raise PipelineError(
            FailureReason.TARGETS,
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
