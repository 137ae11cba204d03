"""Attacks by what is asked for: expressions, ranges, and trainings over large and odd bases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from faults.attacks.evil import SPACE, Attack, Evil, Send, always
from support.adapters import base_registration
from support.soak import SOAKING

from registry.principal import Role
from sdk.lora.planning.blueprint import blueprint_of

#: Llama 3.1 405B.
LLAMA_405B: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 16384,
    "num_attention_heads": 128,
    "num_key_value_heads": 8,
    "intermediate_size": 53248,
    "vocab_size": 128256,
    "num_hidden_layers": 126,
}
_ODD_NAMES = 9500 if SOAKING else 2000
_NOBODY_S = {"base": {"id": "b"}, "data": "0" * 64}
_RANGES = "0-65535," * 1777 + "1"


def _evaluation(**spec: Any) -> dict[str, Any]:
    target = {"base": _NOBODY_S["base"]}
    return {"request": {"kind": "evaluation", "targets": [target], "data": _NOBODY_S["data"], "spec": spec}}


def training(base: str, data: str, **spec: Any) -> dict[str, Any]:
    """A request for a training, which workers take after all others."""
    request = {"kind": "training", "adapter": f"{SPACE}/made", "base": {"id": base}, "data": data, "spec": spec}
    return {"request": request, "priority": -1}


def _nested(_: Evil) -> Send:
    nested = "(?:(?:(?:(?:){4000}){4000}){4000}){4000}"
    return always("POST", "/jobs", _evaluation(regex=nested), _evaluation(regex="a{4000}" * 142))


def _ranges(_: Evil) -> Send:
    wanted = ("layers_to_transform", "trainable_token_indices")
    return always("POST", "/jobs", *(training("b", "0" * 64, **{name: _RANGES}) for name in wanted))


def llama_405b(evil: Evil) -> str:
    """Register a base with the shapes of Llama 3.1 405B; return its name."""
    shapes = {name: list(shape) for name, shape in blueprint_of(LLAMA_405B).tensors.items()}
    return _claimed(evil, "llama-405b", shapes, LLAMA_405B)


def odd_names(evil: Evil) -> str:
    """Register a base whose every tensor is in a layer, and in a place of its own there; return its name."""
    shapes = {f"m.layers.{number % 7}.p{number}.w.weight": [8, 8] for number in range(_ODD_NAMES)}
    return _claimed(evil, "odd", shapes, {**LLAMA_405B, "model_type": "strange", "num_hidden_layers": 7})


def _claimed(evil: Evil, name: str, shapes: Mapping[str, list[int]], config: Mapping[str, Any]) -> str:
    if name not in evil.made:
        said = base_registration(name, namespace=SPACE, tensors=shapes, config=config)
        evil.made[name] = evil.client.bases.register(said).id
    return evil.made[name]


def int8(evil: Evil) -> dict[str, Any]:
    """An honest training with 8 bits over Llama 3.1 405B."""
    return training(llama_405b(evil), evil.rows(), quant_type="int8", targets="all-linear")


def _over_odd_names(evil: Evil) -> Send:
    asked = ({"targets": "all-linear"}, {"targets": ".*w"}, {"targets": "all-linear", "exclude": ".*3.*"})
    return always("POST", "/jobs", *(training(odd_names(evil), evil.rows(), **spec) for spec in asked))


ATTACKS = {
    "1: repeats of nothing, by a reader": Attack(Role.READER, _nested, frozenset({403})),
    "1: repeats of nothing, by a writer": Attack(Role.WRITER, _nested, frozenset({422})),
    "2: ranges, by a reader": Attack(Role.READER, _ranges, frozenset({403})),
    "2: ranges, by a writer": Attack(Role.WRITER, _ranges, frozenset({422})),
    "3: 405B in 8 bits": Attack(Role.WRITER, lambda evil: always("POST", "/jobs", int8(evil)), frozenset({201})),
    "3: all-linear over odd names": Attack(Role.WRITER, _over_odd_names, frozenset({201, 422})),
}
