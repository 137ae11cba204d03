"""An engine in memory whose every step a test can hold up, fail or kill, and which notices what no gateway may do to one."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx

from sdk.gateway.engines.engine import EngineFacts, EngineRefused, InferenceEngine, Upstream
from sdk.gateway.moves.versions import Fetched, Proof
from sdk.schemas.serving import ServedAdapter, ServedVersion

BASE = "b" * 64


def digest_of(name: str, content: str = "") -> str:
    return hashlib.sha256(f"{name} {content}".encode()).hexdigest()


def adapter(name: str, *numbers: int, **aliases: int) -> ServedAdapter:
    """An adapter with these versions, the last of which is its newest."""
    versions = [
        ServedVersion(number=n, digest=digest_of(f"{name}@v{n}"), state="ready", base=BASE)
        for n in sorted(set(numbers))
    ]
    return ServedAdapter(name=name, latest=max(numbers, default=None), aliases=aliases, versions=versions)


class MemoryFolders:
    """VersionFolders that exist in name only: which are leased is what matters."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.leased: list[str] = []
        self.fetches: list[str] = []
        #: Called before each step, and may wait or raise.
        self.before: Callable[[str, str], Any] = lambda _step, _name: None

    async def begin(self) -> None:
        self.leased.clear()

    async def fetch(self, name: str, digest: str) -> Fetched:
        self.fetches.append(name)
        await _step(self.before, "fetch", name)
        self.leased.append(digest)
        return Fetched(self.root / digest)

    async def release(self, fetched: Fetched) -> None:
        await _step(self.before, "unlease", fetched.folder.name)
        self.leased.remove(fetched.folder.name)


class MemoryEngine:
    """What a request gets is the digest of the folder that was loaded under its name."""

    def __init__(self, folders: MemoryFolders) -> None:
        self._folders = folders
        self.have: dict[str, Path] = {}
        self.running: dict[str, int] = {}
        self.is_up = True
        #: What was done wrongly to it.
        self.faults: list[str] = []
        self.steps: list[str] = []
        self.before: Callable[[str, str], Any] = lambda _step, _name: None
        self._client = httpx.AsyncClient()

    def kill(self) -> None:
        """It is gone, with everything that it had and all requests."""
        self.is_up = False
        self.have.clear()
        self.running = {}

    async def facts(self) -> EngineFacts:
        await _step(self.before, "facts", "")
        self._require_up()
        return EngineFacts("memory", None, "base", 1024, None)

    async def load(self, name: str, folder: Path) -> None:
        await self._do("load", name)
        if folder.name not in self._folders.leased:
            self.faults.append(f"{name} is loaded from a folder that isn't leased")
        if self.have.get(name, folder) != folder:
            self.faults.append(f"{name} moves inside the engine")
        self.have[name] = folder

    def route(self, name: str | None) -> Upstream:
        if name is not None and name not in self.have:
            raise KeyError(name)
        return Upstream(self._client, {"model": name})

    async def release(self, name: str) -> None:
        await self._do("release", name)
        if self.running.get(name):
            self.faults.append(f"{name} is released while {self.running[name]} requests run")
        folder = self.have.pop(name, None)
        if folder is not None and folder.name not in self._folders.leased:
            self.faults.append(f"{name} has lost its lease before it is released")

    async def loaded(self) -> frozenset[str]:
        await self._do("loaded", "")
        return frozenset(self.have)

    async def score(self, name: str | None, prompt: Sequence[int], continuation: Sequence[int]) -> list[float]:
        await self._do("score", name or "")
        return [0.0 for _ in continuation]

    async def close(self) -> None:
        self.kill()
        await self._client.aclose()

    async def _do(self, step: str, name: str) -> None:
        self._require_up()
        self.steps.append(f"{step} {name}")
        await _step(self.before, step, name)
        self._require_up()

    def _require_up(self) -> None:
        if not self.is_up:
            raise httpx.ConnectError("refused")


async def prove(engine: InferenceEngine, name: str, digest: str) -> Proof:
    """Ask the engine something, and take it for proved."""
    await engine.score(name, [1], [2])
    return Proof.PASSED


def refusing(reason: str, *names: str) -> Callable[[str, str], None]:
    """Refuse the load of some versions."""

    def before(step: str, name: str) -> None:
        if step == "load" and name in names:
            raise EngineRefused(reason)

    return before


class Gate:
    """Holds up one step of one version until it is opened."""

    def __init__(self, step: str, name: str) -> None:
        self._meant = (step, name)
        self.reached, self.open = asyncio.Event(), asyncio.Event()

    async def __call__(self, step: str, name: str) -> None:
        if (step, name) == self._meant:
            self.reached.set()
            await self.open.wait()


async def _step(before: Callable[[str, str], Any], step: str, name: str) -> None:
    await asyncio.sleep(0)
    waits = before(step, name)
    if waits is not None:
        await waits
