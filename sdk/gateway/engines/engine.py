"""What the gateway needs of an engine: three verbs, and what it serves.

Only versioned names, `NAME@vN`, live in an engine. Every method may be called while requests run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx


class EngineRefused(Exception):  # noqa: N818 - it reads as what happened
    """The engine can't serve a version, or isn't the right one; the message is one sentence that ends with what to do."""


class EngineDied(EngineRefused):
    """The engine's process ended before it was ready, and said nothing of the reason: another one may come up."""


class OtherBase(EngineRefused):
    """By a version's record the engine has another base than the version's."""


@dataclass(frozen=True)
class EngineFacts:
    """What an engine says of itself when it is found."""

    #: The engine's name as `compat` has it, and its release where it says one.
    engine: str
    version: str | None
    #: The base as the engine has it: a folder or a name, and the most tokens of a prompt with its answer.
    base: str
    context_tokens: int
    #: The SHA-256 of the chat template that it renders with; None: none, or it doesn't say.
    template: str | None
    #: Which fields of requests it takes beyond those that all take: "echo", "response_format", "tools".
    takes: frozenset[str] = frozenset()


class RunningCount:
    """How many requests use something that is ended once none does; all of it happens in one event loop.

    >>> running = RunningCount()
    >>> with running:
    ...     running.count
    1
    >>> running.count
    0
    """

    def __init__(self) -> None:
        self.count = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def __enter__(self) -> None:
        self.count += 1
        self._idle.clear()

    def __exit__(self, *_: object) -> None:
        self.count -= 1
        if self.count == 0:
            self._idle.set()

    async def idle(self) -> None:
        """Wait until no request is running."""
        while self.count:
            await self._idle.wait()


@dataclass(frozen=True)
class Upstream:
    """Where a request goes: the client that reaches the engine, and what is put into its body, such as the model's name there.

    Who uses it enters `running` in the same step of the event loop in which `InferenceEngine.route` gave it, for as long as the request lasts:
    what answers there, such as a process of llama.cpp, is ended only while nobody does.
    """

    client: httpx.AsyncClient
    fields: Mapping[str, Any]
    running: RunningCount = field(default_factory=RunningCount)


class InferenceEngine(Protocol):
    """One inference engine with one base."""

    async def facts(self) -> EngineFacts:
        """Wait until the engine is up, and return what it is; one that this started and that has died is started again, with none of
        its versions. Raises EngineRefused.
        """
        ...

    async def load(self, name: str, folder: Path) -> None:
        """Make a version answer under its name; done already is fine. Raises EngineRefused, and then nothing of it is left behind;
        httpx.HTTPError while the engine is away, and then it may be loaded or not.
        """
        ...

    def route(self, name: str | None) -> Upstream:
        """Return where requests for a loaded version go, for the base with None. Raises KeyError for a name that isn't loaded."""
        ...

    async def release(self, name: str) -> None:
        """Forget a version; no request for it is running. One that isn't loaded is fine. Once this returns, its folder isn't read any
        more. Raises httpx.HTTPError while the engine is away, and EngineRefused.
        """
        ...

    async def loaded(self) -> frozenset[str]:
        """Return the versions that the engine itself says it has. Raises httpx.HTTPError while it is away."""
        ...

    async def score(self, name: str | None, prompt: Sequence[int], continuation: Sequence[int]) -> list[float]:
        """Return the log-probability, in nats, of each token of a continuation after a prompt, under a version, or the base.

        Raises KeyError for a name that isn't loaded, httpx.HTTPError, EngineRefused.
        """
        ...

    async def close(self) -> None:
        """End what this started, and nothing else."""
        ...
