"""The shapes of a base: every parameter by name, and the few numbers that activations depend on.

>>> tiny = {"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
...         "intermediate_size": 16, "vocab_size": 10}
>>> blueprint = blueprint_of(tiny)
>>> blueprint.parameters, blueprint.tensors["model.layers.0.mlp.up_proj.weight"]
(824, [16, 8])
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from sdk.formats.base_files import is_buffer
from sdk.lora.linear_modules import linear_modules
from sdk.lora.planning.config_faults import config_fault
from sdk.lora.planning.families import FAMILIES, ConfigError, Numbers, tied

#: Linear modules that choose experts, which transformers 5 stores as plain parameters: nothing packs or adapts them.
_ROUTER = "gate"
#: For an unknown family, if its config says nothing: a state-space model has no heads.
_LONGEST_NAME = 80
_CUSTOMARY = {"num_attention_heads": 1}
#: As a multiple of the hidden size.
_CUSTOMARY_INNER = 4


class UnknownFamilyError(ValueError):
    """The family isn't in the table, and there are no shapes from files; the message is a sentence."""


@dataclass(frozen=True)
class ModelShapes:
    """A base's shapes."""

    model_type: str
    #: Name to shape of every parameter, without a head that is tied to the embedding.
    tensors: Mapping[str, Sequence[int]]
    #: Whether the output head is tied to the input embedding.
    tied: bool
    #: Whether linear weights are stored as (in, out), as in GPT-2.
    transposed: bool
    hidden: int
    layers: int
    vocabulary: int
    #: Width of the queries of a layer, heads · head_dim.
    queries: int
    #: Width of its keys, and of its values.
    keys: int
    heads: int
    #: Width of the MLP that a token goes through.
    inner: int
    #: Numbers that it keeps for each unit of that width.
    mlp_kept: int
    #: Normalisations over the hidden size in a layer.
    norms: int
    #: Whether queries and keys are normalised too.
    normed_queries: bool
    #: Whether one matrix makes queries, keys and values, and its output stays in memory besides the rotated ones.
    joined_qkv: bool = False
    #: Whether the base has dropout on attention in training, as GPT-2 does.
    drops_attention: bool = False
    #: Whether attention can do without a matrix of all scores.
    sdpa: bool = True
    #: Experts that each token goes through; 0: the layers have no experts.
    experts: int = 0
    #: Whether the family is known: otherwise counts are exact if shapes came from files, and activations are Llama's.
    known: bool = True
    shapes_from: Literal["config", "files", "model"] = "config"
    #: Parts of the model that are not counted; "" if all are.
    left_out: str = ""

    @cached_property
    def parameters(self) -> int:
        """The number of parameters of the model; a tied head counts once."""
        return sum(math.prod(shape) for shape in self.tensors.values())

    @cached_property
    def linear(self) -> Mapping[str, tuple[int, int]]:
        """(out, in) of each linear module of the layers, by name; sorted."""
        shapes = {name: self.tensors[f"{name}.weight"] for name in linear_modules(self.tensors)}
        return {
            name: (shape[1], shape[0]) if self.transposed else (shape[0], shape[1])
            for name, shape in shapes.items()
            if not (self.experts and name.endswith(f".{_ROUTER}"))
        }

    @cached_property
    def linear_sizes(self) -> Mapping[tuple[int, int], int]:
        """How many of them there are of each (out, in): there are few sizes in a model."""
        return Counter(self.linear.values())

    @cached_property
    def stacked(self) -> Mapping[str, tuple[int, int, int]]:
        """(experts, out, in) of each parameter that holds all experts of a layer, by name."""
        return {
            name: (shape[0], shape[1], shape[2])
            for name, shape in self.tensors.items()
            if len(shape) == 3 and "experts" in name.split(".")
        }


def blueprint_of(config: Mapping[str, Any], tensors: Mapping[str, Sequence[int]] | None = None) -> ModelShapes:
    """Return the blueprint of a `config.json`, with the shapes from its files if these are known.

    Raises ConfigError for a config that lacks a needed number, or describes an impossible model, UnknownFamilyError if
    neither the table nor files give shapes.
    """
    if (fault := config_fault(config)) is not None:
        raise ConfigError(fault)
    part = config.get("text_config")
    text: Mapping[str, Any] = {**part} if isinstance(part, dict) else config
    outer, inner = _model_type(config), _model_type(text)
    name = inner if inner in FAMILIES or outer is None else outer
    name = "none" if name is None else name[:_LONGEST_NAME]
    family = FAMILIES.get(name)
    if family is None and not tensors:
        raise UnknownFamilyError(
            f"the family {name!a} is not one whose shapes follow from the config alone ({', '.join(sorted(FAMILIES))})"
        )
    numbers = Numbers(
        text,
        _CUSTOMARY if family is None else family.defaults,
        inner_times_hidden=_CUSTOMARY_INNER if family is None else family.inner_times_hidden,
    )
    is_tied = tied(config, text, False if family is None else family.tied)
    if tensors:
        # Scales and states of packed weights have the weights' names with a suffix.
        held = {
            key: list(shape) for key, shape in tensors.items() if ".weight." not in key and not is_buffer(key, shape)
        }
        if family is not None and family.experts:
            held = joined(held)
        if is_tied:
            held.pop("lm_head.weight", None)
    else:
        assert family is not None
        if text is not config and family.beside is None:
            raise UnknownFamilyError(
                f"the config of {outer or name:.80} has parts besides its text model, whose shapes the table lacks"
            )
        held = family.tensors(numbers, tied=is_tied)
    heads = numbers.heads
    transposed = family is not None and family.transposed
    experts = family is not None and family.experts
    return ModelShapes(
        model_type=name,
        tensors=held,
        tied=is_tied,
        transposed=transposed,
        hidden=numbers.hidden,
        layers=numbers.layers,
        vocabulary=numbers.vocabulary,
        queries=heads * numbers.head_dim,
        keys=numbers.kv_heads * numbers.head_dim,
        heads=heads,
        inner=numbers.moe_inner if experts else _inner(numbers, held if tensors else {}, transposed=transposed),
        mlp_kept=3 if family is None else family.mlp_kept,
        norms=2 if family is None else family.norms,
        normed_queries=family is not None and family.normed_queries,
        joined_qkv=family is not None and family.joined_qkv,
        drops_attention=_drops_attention(text, False if family is None else family.drops_attention),
        sdpa=family is None or family.sdpa,
        experts=numbers.active_experts if experts else 0,
        known=family is not None,
        shapes_from="files" if tensors else "config",
        left_out="" if tensors or text is config or family is None else family.beside or "",
    )


def _drops_attention(config: Mapping[str, Any], default: bool) -> bool:
    """Whether a config, or else its family, has dropout on attention."""
    said = [config[key] for key in ("attn_pdrop", "attention_dropout") if config.get(key) is not None]
    return bool(said[0]) if said else default


def _model_type(config: Mapping[str, Any]) -> str | None:
    """Return the family that a config names; the config is untrusted. Raises ConfigError if the value is not a string."""
    said = config.get("model_type")
    if said is not None and not isinstance(said, str):
        raise ConfigError(f"says model_type = {str(said)[:40]!a}, which is not text")
    return said


def _inner(numbers: Numbers, held: Mapping[str, Sequence[int]], *, transposed: bool) -> int:
    """Return the width of the widest MLP: the input of a matrix outside attention whose output is the hidden size.

    Layers may differ; the config then has a list. Without such matrices the config decides. Raises ConfigError.
    """
    modules = linear_modules(held)
    shapes = [held[f"{name}.weight"] for name in modules if not any("att" in part for part in name.split("."))]
    sides = [(shape[1], shape[0]) if transposed else (shape[0], shape[1]) for shape in shapes]
    found = [into for out, into in sides if out == numbers.hidden]
    return max(found) if found else numbers.inner


_SINGLE = re.compile(r"(.*experts)\.([0-9]{1,5})\.(?:(gate_proj|up_proj|w1|w3)|(down_proj|w2))\.weight")
#: Mixtral's name in files for a part of a layer that transformers 5 names as in other models.
_MIXTRAL, _MLP = "block_sparse_moe.", "mlp."


def joined(tensors: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """Return names and shapes with the experts of each layer, which files store one by one, joined as transformers 5 joins
    them when loading: gate and up, (experts, 2·inner, hidden), and down.

    >>> one = {f"mlp.experts.0.{name}_proj.weight": [4, 8] for name in ("gate", "up")} | {"mlp.experts.0.down_proj.weight": [8, 4]}
    >>> joined(one | {name.replace("0", "1"): shape for name, shape in one.items()})
    {'mlp.experts.gate_up_proj': [2, 8, 8], 'mlp.experts.down_proj': [2, 8, 4]}
    >>> joined({"block_sparse_moe.gate.weight": [2, 8]})
    {'mlp.gate.weight': [2, 8]}
    """
    found: dict[str, list[int]] = {}
    for name, shape in tensors.items():
        name = name.replace(_MIXTRAL, _MLP)
        single = _SINGLE.fullmatch(name)
        if single is None or len(shape) != 2:
            found[name] = list(shape)
            continue
        owner, number, up, _ = single.groups()
        whole = found.setdefault(f"{owner}.{'gate_up_proj' if up else 'down_proj'}", [0, 0, shape[1]])
        whole[0] = max(whole[0], int(number) + 1)
        whole[1] = max(whole[1], shape[0] * (2 if up else 1))
    return found
