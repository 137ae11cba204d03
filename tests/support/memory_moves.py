"""Moves over an engine in memory, and how a test runs a scene with them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sdk.gateway.moves.moves import Bounds, Moves
from sdk.gateway.moves.versions import ServingState
from support.serving_engine import BASE, MemoryEngine, MemoryFolders, prove

#: Pauses that a test waits for.
QUICK = Bounds(spares=2, wait_s=5.0, pause_s=0.3, passing_s=0.02, passing_most_s=0.05, watch_s=0.02)


class MemoryWorld:
    """Moves over an engine in memory."""

    def __init__(self, root: Path, *refs: str, bounds: Bounds = QUICK, **options: Any) -> None:
        self.folders = MemoryFolders(root)
        self.engine = MemoryEngine(self.folders)
        self.lines: list[str] = []
        self.moves = Moves(
            self.engine,
            refs=refs or ("sql@production",),
            base=BASE,
            folders=self.folders,
            **{"prove": prove, **options},
            say=self.lines.append,
            bounds=bounds,
        )

    @asynccontextmanager
    async def request(self, model: str) -> AsyncIterator[str]:
        """Run a request for the block; yield what it got."""
        async with self.moves.hold(model) as held:
            name = str(held.version)
            assert self.engine.route(name)
            assert self.engine.have[name].name == held.digest
            assert held.digest in self.folders.leased
            # An engine that was killed has forgotten its requests.
            running = self.engine.running
            running[name] = running.get(name, 0) + 1
            try:
                yield name
            finally:
                running[name] -= 1

    async def answer(self, model: str) -> str:
        async with self.request(model) as name:
            return name

    def means(self, name: str = "sql@production") -> str | None:
        return next(each.serving for each in self.moves.names() if each.name == name)

    def state(self, name: str) -> ServingState | None:
        return next((each.state for each in self.moves.state() if each.name == name), None)

    async def until(self, holds: Callable[[], Any]) -> None:
        async with asyncio.timeout(10):
            while not holds():
                await asyncio.sleep(0.005)


#: Runs a scene with a world, and ends it.
Run = Callable[[MemoryWorld, Callable[[MemoryWorld], Coroutine[Any, Any, None]]], None]
