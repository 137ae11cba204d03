"""What somebody has put into a registry before a request: the request is short, and meets all of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from faults.growth.asking import Desk
from support.adapters import base_registration


@dataclass(frozen=True)
class Request:
    """One that meets what was put there."""

    method: str
    path: str
    #: From the name of what was put there, and the digest of some rows.
    body: Callable[[str, str], Any] | None = None
    query: Callable[[str], str] = str


@dataclass(frozen=True)
class State:
    """Puts about so many bytes there, and says what they are called."""

    build: Callable[[Desk, int], str]
    requests: dict[str, Request]
    most_bytes: int


#: All that a plan needs.
_CONFIG = {
    "model_type": "llama",
    "hidden_size": 6,
    "intermediate_size": 6,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": 6,
    "vocab_size": 32,
    "max_position_embeddings": 2048,
}


def _base(tensors: Callable[[int], dict[str, list[int]]]) -> Callable[[Desk, int], str]:
    def build(desk: Desk, size_bytes: int) -> str:
        name = f"base-of-{size_bytes}"
        found = tensors(size_bytes)
        layers = {int(name.split(".")[2]) for name in found if name.startswith("model.layers.")}
        config = {**_CONFIG, "num_hidden_layers": max(layers, default=0) + 1}
        desk.client.bases.register(base_registration(name, tensors=found, config=config))
        return name

    return build


def _layers(size_bytes: int) -> dict[str, list[int]]:
    """The tensors of a Llama of many layers."""
    modules = [f"self_attn.{name}_proj" for name in "qkvo"] + [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
    found = {"model.embed_tokens.weight": [32, 6]}
    for layer in range(max(1, size_bytes // 350)):
        found |= {f"model.layers.{layer}.{module}.weight": [6, 6] for module in modules}
    return found


def _odd(size_bytes: int) -> dict[str, list[int]]:
    """Tensors of layers, of which no two are in the same place of one."""
    return {
        f"model.layers.{number % 8}.self_attn.m{number}.proj.weight": [6, 6]
        for number in range(max(1, size_bytes // 54))
    }


def _ends(size_bytes: int) -> dict[str, list[int]]:
    """Tensors whose names are each the end of the next one."""
    return {"a." * number + "q_proj.weight": [6, 6] for number in range(max(1, int(size_bytes**0.5)))}


def _training(**spec: Any) -> Request:
    def body(base: str, data: str) -> Any:
        request = {
            "kind": "training", "adapter": "team/of-state", "base": {"id": base}, "data": data,
            "spec": {"method": "lora", "rank": 2, **spec},
        }  # fmt: skip
        return {"request": request}

    return Request("post", "/api/v1/jobs", body)


_OVER_A_BASE = {
    "get": Request("get", "/api/v1/base", query=lambda base: f"name={base}"),
    "list": Request("get", "/api/v1/bases", query=lambda _: "limit=100"),
    "train all-linear": _training(targets="all-linear"),
    "train attention": _training(targets="attention"),
    "train names": _training(targets="q_proj,v_proj"),
    "train a pattern": _training(targets=".*proj"),
    "train with 4 bits": _training(targets="all-linear", method="qlora"),
    "train with 8 bits": _training(targets="all-linear", method="qlora", quant_type="int8"),
    "train but some": _training(targets="all-linear", exclude=".*q_proj"),
    "train some layers": _training(targets="all-linear", layers_to_transform="0-3"),
    "evaluate": Request(
        "post",
        "/api/v1/jobs",
        lambda base, data: {"request": {"kind": "evaluation", "refs": [f"base:{base}"], "data": data, "spec": {}}},
    ),
}

_MOST_TENSORS_BYTES = 1024 * 1024
STATES: dict[str, State] = {
    "base of layers": State(_base(_layers), _OVER_A_BASE, _MOST_TENSORS_BYTES),
    "base of odd names": State(_base(_odd), _OVER_A_BASE, _MOST_TENSORS_BYTES),
    "base of ends": State(_base(_ends), _OVER_A_BASE, _MOST_TENSORS_BYTES),
}


def encoded(body: Any) -> bytes:
    """A body as it is sent."""
    return json.dumps(body).encode()
