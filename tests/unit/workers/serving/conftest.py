"""A tiny Llama, two adapters over it that matter, and a loop with both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support import served, tiny

from workers.serving.decoding.loop import DecodeLoop

#: Settings of the two adapters: they share some modules, and each has some of its own.
SETTINGS = {
    "a@v1": {"target_modules": ["q_proj", "v_proj", "down_proj"]},
    "a@v2": {"target_modules": ["v_proj", "up_proj"], "use_rslora": True, "rank_pattern": {"up_proj": 2}},
}


@pytest.fixture(scope="session", autouse=True)
def one_thread_each() -> Iterator[None]:
    """Threads that wait for each other take most of a tiny model's time on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 2 layers, hidden size 64, tied embeddings, in float32."""
    return tiny.save_llama(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters over it; not to be changed."""
    folder = tmp_path_factory.mktemp("adapters")
    return {
        name: served.save_adapter(base, folder / name, seed=seed, **settings)
        for seed, (name, settings) in enumerate(SETTINGS.items())
    }


@pytest.fixture(scope="module")
def loop(base: Path, adapters: dict[str, Path]) -> Iterator[DecodeLoop]:
    """A loop with both; tests leave it as it is."""
    with DecodeLoop(base, dtype="float32") as loop:
        for name, folder in adapters.items():
            loop.load(name, folder)
        yield loop
