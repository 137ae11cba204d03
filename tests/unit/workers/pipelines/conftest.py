"""A tiny base on disk: a random model of two layers with a real byte-level tokenizer and a chat template."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support import tiny
from support.architectures import save_model
from support.trainings import PREFERENCES, save_jsonl


@pytest.fixture(scope="session")
def llama_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 2 layers, hidden size 64, tied embeddings, in float32."""
    return tiny.save_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def gpt2_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 of 2 layers, hidden size 64, whose linear weights lie transposed, in float32."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("gpt2")
    vocabulary = tiny.save_tokenizer(folder)
    torch.manual_seed(2)
    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=256,
        n_embd=64,
        n_layer=2,
        n_head=4,
        bos_token_id=None,
        eos_token_id=0,
        initializer_range=0.2,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A Llama and a GPT-2 of 2 layers, hidden size 32, in float32; not to be changed."""
    folder = tmp_path_factory.mktemp("bases")
    return {kind: save_model(folder / kind, kind) for kind in ("llama", "gpt2")}


@pytest.fixture
def free_memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let a device, and a plain merge, have so many bytes of free memory from the call on."""
    from workers.pipelines.merging import plain_measuring
    from workers.pipelines.model.device import Device

    def have(size_bytes: int) -> None:
        monkeypatch.setattr(Device, "available_memory_bytes", lambda self: size_bytes)
        monkeypatch.setattr(plain_measuring, "main_memory", lambda: SimpleNamespace(available_bytes=size_bytes))

    return have


@pytest.fixture
def wide_share(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let 4-bit weights also be kept in 16 bits if that takes at most such a share of the memory, from the call on."""
    from workers.pipelines.model import loading

    return lambda share: monkeypatch.setattr(loading, "_WIDE_SHARE", share)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Threads that wait for each other take most of a tiny training's time on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Write rows as JSONL and return the path."""

    def write(rows: list[Any], name: str = "rows.jsonl") -> Path:
        return save_jsonl(tmp_path / name, rows)

    return write


@pytest.fixture(scope="session")
def preferences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve {prompt, chosen, rejected} rows; not to be changed."""
    return save_jsonl(tmp_path_factory.mktemp("rows") / "preferences.jsonl", PREFERENCES)


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve {prompt, completion} rows of unequal length; not to be changed."""
    rows = [
        {"prompt": f"count {' and '.join(tiny.WORDS[: n + 1])}: ", "completion": word}
        for n, word in enumerate(tiny.WORDS)
    ]
    return save_jsonl(tmp_path_factory.mktemp("rows") / "pairs.jsonl", rows)
