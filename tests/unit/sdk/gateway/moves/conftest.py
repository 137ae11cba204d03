"""Scenes with moves over an engine in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from support.memory_moves import MemoryWorld, Run


@pytest.fixture
def run() -> Run:
    def run(world: MemoryWorld, scene: Callable[[MemoryWorld], Coroutine[Any, Any, None]]) -> None:
        async def all_of_it() -> None:
            await world.moves.start()
            try:
                async with asyncio.timeout(30):
                    await scene(world)
            finally:
                await world.moves.close()
            assert world.engine.faults == []

        asyncio.run(all_of_it())

    return run
