"""An adapter that changes nothing stands for vLLM's base, and the base itself isn't asked while versions are there."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from support import torch_forks
from support.engines import require_torch

from sdk.formats.safetensors_header import TensorEntry, written_header
from sdk.gateway.engines.engine import EngineRefused
from sdk.gateway.engines.vllm_base import VllmBase, is_base, write_empty

_A, _B = "base_model.model.{}.lora_A.weight", "base_model.model.{}.lora_B.weight"


def version_with(folder: Path, *modules: str, dimensions: int = 2) -> Path:
    """Write the weights of an adapter of rank 2 for modules of 4 × 6."""
    shapes = [((2, 4), (6, 2)) if dimensions == 2 else ((3, 2, 4), (3, 6, 2)) for _ in modules]
    tensors = []
    for module, (a, b) in zip(modules, shapes, strict=True):
        tensors += [TensorEntry(_A.format(module), "BF16", a, 16 * (1 if dimensions == 2 else 3))]
        tensors += [TensorEntry(_B.format(module), "BF16", b, 24 * (1 if dimensions == 2 else 3))]
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(
        written_header(tensors) + b"\1" * sum(each.size_bytes for each in tensors)
    )
    return folder


def base_in(folder: Path, *, refuses: str | None = None, wait_s: float = 5.0) -> tuple[VllmBase, list[str]]:
    """Return one in front of an engine whose base is called "llama", and the names that the engine was given."""
    given: list[str] = []

    async def load(name: str, path: Path) -> str | None:
        assert json.loads((path / "adapter_config.json").read_text())["r"] == 1
        given.append(name)
        return refuses

    base = VllmBase(folder, load, wait_s=wait_s)
    base.look("llama", set())
    return base, given


def test_what_stands_for_the_base_answers_exactly_as_the_base(tmp_path: Path) -> None:
    require_torch()
    folder, version = torch_forks.call("support.tiny:save_llama", tmp_path / "base"), tmp_path / "version"
    modules = ["q_proj", "down_proj"]
    torch_forks.call("support.served:save_adapter", folder, version, seed=1, target_modules=modules)
    assert write_empty(version, tmp_path / "empty")
    plain, empty, adapted = (
        torch_forks.call("support.served:logits", folder, each, [5, 6, 7, 8])
        for each in (None, tmp_path / "empty", version)
    )
    assert empty == plain
    assert adapted != plain


def test_an_ordinary_module_is_taken_before_the_head_and_experts_alone_are_none(tmp_path: Path) -> None:
    version = version_with(tmp_path / "version", "lm_head", "model.layers.0.self_attn.q_proj")
    assert write_empty(version, tmp_path / "empty")
    assert json.loads((tmp_path / "empty" / "adapter_config.json").read_text())["target_modules"] == ["q_proj"]
    assert not write_empty(version_with(tmp_path / "experts", "model.experts", dimensions=3), tmp_path / "none")


def test_the_base_is_asked_itself_until_the_first_version_and_by_one_adapter_from_then_on(tmp_path: Path) -> None:
    async def body() -> None:
        base, given = base_in(tmp_path)
        assert base.asked_as()[0] == "llama"
        version = version_with(tmp_path / "version", "q_proj")
        await asyncio.gather(*(base.beside(f"sql@v{number}", version) for number in (1, 2, 3)))
        assert given == [base.asked_as()[0]]
        assert is_base(given[0])
        # An engine that was started again has none of it, and gets another name.
        base.look("llama", set())
        assert base.asked_as()[0] == "llama"
        await base.beside("sql@v1", version)
        assert base.asked_as()[0] == given[1] != given[0]

    asyncio.run(body())


def test_the_next_gateway_goes_on_with_what_the_engine_has_from_its_own_folder(tmp_path: Path) -> None:
    async def body() -> None:
        first, (given) = base_in(tmp_path)
        await first.beside("sql@v1", version_with(tmp_path / "version", "q_proj"))
        base, _ = base_in(tmp_path)
        (tmp_path / "adapterctl-base-x").mkdir()
        base.look("llama", {given[0], "sql@v1", "adapterctl-base-x", "adapterctl-base-00000000"})
        assert base.asked_as()[0] == given[0]

    asyncio.run(body())


def test_a_version_waits_for_requests_that_the_base_itself_answers(tmp_path: Path) -> None:
    async def body() -> None:
        base, _ = base_in(tmp_path, wait_s=0.2)
        version = version_with(tmp_path / "version", "q_proj")
        _model, running = base.asked_as()
        with running:
            with pytest.raises(EngineRefused, match="requests to the base that began before"):
                await base.beside("sql@v1", version)
            # New ones don't make it wait longer.
            with base.asked_as()[1]:
                assert running.count == 1
        await base.beside("sql@v1", version)

    asyncio.run(body())


def test_an_engine_that_refuses_it_or_weights_that_cannot_be_read_are_told_with_the_version(tmp_path: Path) -> None:
    async def body() -> None:
        base, _ = base_in(tmp_path, refuses="no free place")
        with pytest.raises(EngineRefused, match=r"sql@v1: no free place; see: adapterctl compat sql@v1"):
            await base.beside("sql@v1", version_with(tmp_path / "version", "q_proj"))
        assert base.asked_as()[0] == "llama"
        assert not list(tmp_path.glob("adapterctl-base-*"))
        with pytest.raises(EngineRefused, match="adapterctl verify sql@v2"):
            await base.beside("sql@v2", tmp_path / "nothing")

    asyncio.run(body())
