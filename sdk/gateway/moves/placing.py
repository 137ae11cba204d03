"""The steps by which a version comes into an engine, and out of it again. When they are taken is decided in `moves`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

import httpx

from sdk.errors import AdapterctlError, TimedOut, Unavailable
from sdk.gateway.engines.engine import EngineRefused, InferenceEngine, OtherBase
from sdk.gateway.moves.versions import Fetched, PlacedVersion, Proof, ServingState

#: So many are fetched at the same time; one is loaded at a time.
_MOST_PULLS = 2
#: Between two tries to take a version out of an engine that is away.
_AGAIN_S = 0.5


class VersionFolders(Protocol):
    """Where versions' files come from."""

    async def begin(self) -> None:
        """End what an earlier gateway held; the engine has none of its versions any more. Raises AdapterctlError."""
        ...

    async def fetch(self, name: str, digest: str) -> Fetched:
        """Return a version's files: fetched by digest, leased before they are hashed. Raises AdapterctlError, and then nothing is
        leased.
        """
        ...

    async def release(self, fetched: Fetched) -> None:
        """End the lease of what `fetch` returned; nobody reads it any more. Raises AdapterctlError."""
        ...


#: Compares what an engine answers under a name with the record of a version, given by name and digest. Raises EngineRefused if it is
#: not this version that answers, or if there is no record and one is asked for; httpx.HTTPError.
Prove = Callable[[InferenceEngine, str, str], Awaitable[Proof]]
#: Says in a sentence why an engine can't serve what is in a folder; None: nothing is known against it. Called in a thread.
Objection = Callable[[Path], str | None]


class VersionRefused(Exception):  # noqa: N818 - it reads as what happened
    """A version isn't served; the message says why, in a sentence."""

    def __init__(self, reason: str, *, is_passing: bool, is_other_base: bool = False) -> None:
        super().__init__(reason)
        self.is_passing, self.is_other_base = is_passing, is_other_base


class Abandoned(Exception):  # noqa: N818 - it reads as what happened
    """Nobody wants the version any more."""


class Placing:
    """Brings versions into one engine, and takes them out."""

    def __init__(
        self,
        engine: InferenceEngine,
        *,
        base: str | None,
        folders: VersionFolders,
        prove: Prove,
        objection: Objection | None,
    ) -> None:
        self._engine, self._base, self._folders, self._prove, self._objection = engine, base, folders, prove, objection
        self._pulls = asyncio.Semaphore(_MOST_PULLS)
        self._loads = asyncio.Lock()

    async def begin(self) -> None:
        """End what an earlier gateway held. Raises AdapterctlError."""
        await self._folders.begin()

    async def bring(self, placed: PlacedVersion, is_wanted: Callable[[], bool]) -> None:
        """Fetch, load and prove a version. When this returns it may be served, unless it isn't wanted any more.

        Raises VersionRefused and Abandoned; the version may still be in the engine then: `take_out` follows.
        """
        _require(is_wanted)
        placed.state = ServingState.PULLING
        with _explained():
            self._require_base(placed)
            async with self._pulls:
                placed.fetched = await self._folders.fetch(placed.name, placed.digest)
            placed.times.pulled = time.time()
            _require(is_wanted)
            if self._objection is not None and (
                said := await asyncio.to_thread(self._objection, placed.fetched.folder)
            ):
                raise EngineRefused(said)
        await self.load(placed, is_wanted)

    async def load(self, placed: PlacedVersion, is_wanted: Callable[[], bool]) -> None:
        """Load and prove a version whose files are there. Raises as `bring` does."""
        assert placed.fetched is not None, "its folder is leased before an engine is given it"
        placed.state = ServingState.LOADING
        with _explained():
            async with self._loads:
                _require(is_wanted)
                await self._engine.load(placed.name, placed.fetched.folder)
                placed.times.loaded = time.time()
                _require(is_wanted)
                placed.state = ServingState.PROBING
                placed.proof = await self._prove(self._engine, placed.name, placed.digest)
                placed.times.probed = time.time()
        _require(is_wanted)

    async def take_out(self, placed: PlacedVersion) -> None:
        """Take a version out of the engine, then end the lease of its files. Waits while the engine is away."""
        while placed.fetched is not None:
            try:
                await self._engine.release(placed.name)
            except (httpx.HTTPError, EngineRefused):
                # It may still read the folder, which therefore stays leased.
                await asyncio.sleep(_AGAIN_S)
                continue
            try:
                await self._folders.release(placed.fetched)
            except (AdapterctlError, OSError):
                # The disk is full, or away for a while. Only what has no lease any more is brought in anew.
                await asyncio.sleep(_AGAIN_S)
                continue
            placed.fetched = None

    def _require_base(self, placed: PlacedVersion) -> None:
        base = placed.named.version.base
        if self._base is not None and base != self._base:
            raise EngineRefused(
                f"{placed.name} belongs to the base {base[:12]}, and this engine has {self._base[:12]}; serve it from another engine"
            )


def _require(is_wanted: Callable[[], bool]) -> None:
    if not is_wanted():
        raise Abandoned


class _explained:  # noqa: N801 - used as a statement
    """Turn the errors of a step into VersionRefused, so that none ends the task that carries a version."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is None or not isinstance(error, Exception) or isinstance(error, VersionRefused | Abandoned):
            return
        if isinstance(error, httpx.HTTPError):
            raise VersionRefused(
                f"the engine doesn't answer ({_words(error)}); look at its log", is_passing=True
            ) from error
        if isinstance(error, AdapterctlError):
            raise VersionRefused(error.message, is_passing=isinstance(error, Unavailable | TimedOut)) from error
        if isinstance(error, EngineRefused):
            raise VersionRefused(str(error), is_passing=False, is_other_base=isinstance(error, OtherBase)) from error
        raise VersionRefused(
            f"an unexpected {type(error).__name__} ({_words(error)}); report it with the log", is_passing=False
        ) from error


def _words(error: Exception) -> str:
    return str(error)[:200] or type(error).__name__
