"""What the names of a model's linear modules tell: which are in its text part, in its layers, in attention.

>>> linear_modules({"model.layers.0.mlp.up_proj.weight": [8, 4], "model.norm.weight": [4], "lm_head.weight": [9, 4]})
['model.layers.0.mlp.up_proj']
>>> sorted(in_attention(["self_attn.q_proj", "linear_attn.in_proj_qkv", "mlp.up_proj"]))
['self_attn.q_proj']
>>> sorted(in_attention(["mixer.q_proj", "mixer.o_proj", "mixer.up_proj"]))
['mixer.o_proj', 'mixer.q_proj']
>>> [name for name in ("q_proj", "k_proj", "query", "qkv_proj", "query_key_value", "o_proj") if reads_queries_or_values(name)]
['q_proj', 'query', 'qkv_proj', 'query_key_value']
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

#: Parts of names of 2-dimensional weights that are not linear modules of a layer: embeddings and output heads.
_NOT_LINEAR = ("embed", "wte", "wpe", "lm_head", "norm", "relative_attention_bias")
#: Parts of a model that see images or hear sounds, or join these to the text.
_OTHER_PARTS = re.compile(
    r"vision|visual|image|img|video|audio|speech|sound|siglip|(^|_)vit(_|$)|multi_modal|(^|_)mm_|connector|perceiver|resampler"
    r"|cross_attn"
)
#: Linear modules of a layer that choose experts: the choice is not trained along with the experts.
_ROUTERS = ("gate", "router", "shared_expert_gate")
#: A claimed name may have thousands of digits, which `int` refuses.
_MOST_DIGITS = 9
_FUSED = ("c_attn", "att_proj")
#: The matrices of attention, by their most common names.
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")


def linear_modules(tensors: Mapping[str, Sequence[int]]) -> list[str]:
    """Return the names of the linear modules, sorted, from the names and shapes of a base's tensors.

    Libraries join all experts into one parameter, so these are not modules.
    """
    return sorted(
        name.removesuffix(".weight")
        for name, shape in tensors.items()
        if len(shape) == 2 and name.endswith(".weight") and _may_be_linear(name.split("."))
    )


def _may_be_linear(parts: list[str]) -> bool:
    return "experts" not in parts and not any(other in parts[-2] for other in _NOT_LINEAR)


def is_text(name: str) -> bool:
    """Whether a module is in a model's text part, the only part that rows of text reach."""
    return not any(_OTHER_PARTS.search(part) for part in name.split("."))


def layer_of(name: str) -> int | None:
    """Return the number of the layer that a module is in: the first number in its name, if no model has as many layers.

    >>> layer_of("model.layers.3.mlp.experts.0.w1"), layer_of("score")
    (3, None)
    """
    first = next((part for part in name.split(".") if part.isdecimal()), "")
    return int(first) if 0 < len(first) <= _MOST_DIGITS else None


def in_attention(rests: Collection[str]) -> set[str]:
    """Return the modules, given by their names within a layer, that are in softmax attention, not in linear attention.

    The name of a parent tells. If none does, `q_proj` and its siblings with names of attention are in it.
    """
    said = {rest: [part for part in rest.split(".")[:-1] if "attn" in part or "attention" in part] for rest in rests}
    named = {rest for rest, parts in said.items() if any(not part.startswith("linear") for part in parts)}
    unsaid = [rest.rpartition(".") for rest, parts in said.items() if not parts]
    parents = {parent for parent, _, last in unsaid if last == _PROJECTIONS[0]}
    return named | {
        f"{parent}{dot}{last}" for parent, dot, last in unsaid if parent in parents and last in _PROJECTIONS
    }


def reads_queries_or_values(rest: str) -> bool:
    """Whether a module of attention makes queries or values, alone or in one matrix with others."""
    last = rest.rpartition(".")[2]
    if last in _FUSED:
        return True
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", last).lower().split("_")
    if {"query", "value"} & set(words):
        return True
    return bool(re.fullmatch(r"w?(q|v|qv|kv|qk|qkv)", words[0]))


@dataclass(frozen=True)
class Layered:
    """Linear modules by their place in a layer: "self_attn.q_proj" to the full names in all layers that have it."""

    by_rest: dict[str, list[str]]

    @classmethod
    def of(cls, names: Sequence[str]) -> Self:
        """Group names by what follows the number of their layer; those outside layers, and routers, are left out."""
        found: dict[str, list[str]] = {}
        for name in names:
            parts = name.split(".")
            at = next((position for position, part in enumerate(parts) if part.isdigit()), len(parts))
            rest = ".".join(parts[at + 1 :])
            if rest and parts[-1] not in _ROUTERS:
                found.setdefault(rest, []).append(name)
        return cls(found)

    def names(self, rests: Collection[str]) -> list[str]:
        """Return the full names of the modules in those places of a layer."""
        return sorted(name for rest in rests for name in self.by_rest[rest])
