"""The end of a gateway waits for nothing that a registry may hold up."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from support.serving_engine import MemoryEngine, MemoryFolders

from sdk.gateway.moves.folders import LeasedFolders
from sdk.gateway.moves.proving import Proving
from sdk.pulling.cache import Cache


class Hanging:
    """A registry that doesn't answer until it is released."""

    def __init__(self) -> None:
        self.asked, self.released = threading.Event(), threading.Event()

    def __call__(self, *_: object) -> NoReturn:
        self.asked.set()
        self.released.wait(30)
        raise OSError("released")


def pulling(registry: Hanging, root: Path) -> Coroutine[Any, Any, object]:
    puller: Any = SimpleNamespace(lease=registry)
    return LeasedFolders(puller, Cache(root), "serve-1").fetch("sql@v1", "a" * 64)


def proving(registry: Hanging, root: Path) -> Coroutine[Any, Any, object]:
    engine = MemoryEngine(MemoryFolders(root))
    return Proving(registry, unprobed=False)(engine, "sql@v1", "a" * 64)


@pytest.mark.parametrize("begin", [pulling, proving])
def test_a_registry_that_hangs_does_not_hold_up_the_end(
    tmp_path: Path, begin: Callable[[Hanging, Path], Coroutine[Any, Any, object]]
) -> None:
    registry = Hanging()

    async def run() -> float:
        working = asyncio.create_task(begin(registry, tmp_path))
        while not registry.asked.is_set():
            await asyncio.sleep(0.01)
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working
        return time.monotonic()

    told = asyncio.run(run())
    took_s = time.monotonic() - told
    registry.released.set()
    assert took_s < 2
