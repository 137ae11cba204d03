"""The watch over an engine: whether it is there, and whether it still has what it was given."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import httpx

from sdk.gateway.engines.engine import InferenceEngine


class EngineWatch:
    """That over one engine."""

    def __init__(
        self,
        engine: InferenceEngine,
        *,
        every_s: float,
        compare: Callable[[], Awaitable[None]],
        on_return: Callable[[], None],
        on_look: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        """`compare` asks the engine what it has, and brings back what is missing. `on_return` is called once an engine that was away is
        there and compared, and `on_look` after each look.
        """
        self._engine, self._every_s, self._say = engine, every_s, say
        self._compare, self._on_return, self._on_look = compare, on_return, on_look
        self._is_here = False
        self._away_for: str | None = None
        self._look = asyncio.Event()

    @property
    def is_here(self) -> bool:
        """Whether the engine is there."""
        return self._is_here

    @property
    def trouble(self) -> str | None:
        """Why the engine isn't there, in a sentence; None if it is."""
        return None if self._is_here else self._away_for or "the engine isn't there yet"

    def begin(self) -> None:
        """Take the engine for there; `run` follows."""
        self._is_here = True

    def look(self) -> None:
        """Ask the engine at once what it has."""
        self._look.set()

    async def run(self) -> None:
        """Ask the engine what it has, again and again."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._every_s):
                    await self._look.wait()
            self._look.clear()
            try:
                await self._compare()
            except httpx.TimeoutException:
                # It is busy; what it has, it still has.
                continue
            except Exception as error:  # noqa: BLE001 - whatever it answers, somebody goes on watching it
                await self._away(error)
            self._on_look()

    async def _away(self, error: Exception) -> None:
        """Wait until the engine is there, and bring back what it has lost before any request goes on."""
        self._is_here = False
        self._away_for = why_silent(error)
        self._say(self._away_for)
        while True:
            try:
                await self._engine.facts()
                await self._compare()
            except Exception as reason:  # noqa: BLE001 - as above
                self._away_for = str(reason)[:500] or type(reason).__name__
                await asyncio.sleep(self._every_s)
            else:
                break
        self._on_return()
        self._is_here = True
        self._say("the engine is back")


def why_silent(error: Exception) -> str:
    """Say of an engine that it doesn't answer."""
    return f"the engine doesn't answer ({str(error)[:200] or type(error).__name__}); look at its log"
