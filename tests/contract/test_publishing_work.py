"""Bytes that are known are judged before the transaction that publishes them: it does the same for a large adapter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.adapters import BASE_TENSORS, RANK, base_registration, save_adapter
from support.people import SEEDS
from support.registries import World
from support.work import Transaction, watched

from registry.principal import Role
from sdk.client import Client


def large(folder: Path, layers: int) -> Path:
    random = np.random.default_rng(next(SEEDS))
    tensors = {
        f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{half}.weight": random.normal(size=shape).astype(
            "f4"
        )
        for layer in range(layers)
        for half, shape in (("A", (RANK, 6)), ("B", (8, RANK)))
    }
    return save_adapter(folder, tensors=tensors, target_modules=["q_proj"])


def test_transaction_that_publishes_known_bytes_does_the_same_for_a_large_adapter(
    people: World, acting: Callable[..., Client], space: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = acting(**{space: Role.WRITER})

    def again(layers: int) -> Transaction:
        shapes = {f"model.layers.{layer}.self_attn.q_proj.weight": [8, 6] for layer in range(layers)}
        name = f"deep-{next(SEEDS)}"
        writer.bases.register(base_registration(name, tensors=BASE_TENSORS | shapes, namespace=space))
        folder = large(tmp_path / name, layers)
        writer.push(folder, f"{space}/a", base=name)
        with watched(people.services.db, monkeypatch) as transactions:
            writer.push(folder, f"{space}/b", base=name)
        (publishing,) = (one for one in transactions if one.wrote("versions"))
        return publishing

    again(10)
    small, deep = again(10), again(400)
    assert deep.calls < 1.2 * small.calls
