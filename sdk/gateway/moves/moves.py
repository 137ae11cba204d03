"""Which version each name means in front of one engine, and how that changes while requests run.

What always holds:

1. A request's version is chosen once. It is counted in the same step of the event loop in which it is chosen, and until the request
   ends that version stays in the engine and its folder leased, whatever the table says meanwhile.
2. A name only ever means a version that was loaded and proved. A move is one assignment; before it every request gets the old
   version, and after it the new one.
3. A version leaves the engine only while no name means it, no request counts on it and none waits for it. This is decided, and written
   down as the state "releasing", in one step; from then on nobody gets it before it was brought in anew.
4. A folder is leased before the engine is given its path, and until the engine has confirmed that it forgot the version.
5. One thing at a time is done with a version: it has one task, which either brings it in or takes it out.
6. Whatever fails on the way in leaves the old version, and the reason. The same is not tried again in a loop.
7. A version that the table doesn't have any more gets no new request from that moment, even if it is just being loaded.
8. A name that means nothing costs one look-up, and nothing of it is kept.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from sdk.gateway.engine_watch import EngineWatch, why_silent
from sdk.gateway.engines.engine import EngineDied, EngineFacts, EngineRefused, InferenceEngine, Upstream
from sdk.gateway.moves.followed_names import FollowedName, FollowedNames, why_not_moved
from sdk.gateway.moves.placed_versions import Bounds, PlacedVersions
from sdk.gateway.moves.placing import Objection, Placing, Prove, VersionFolders
from sdk.gateway.moves.versions import MoveTimes, NameStatus, PlacedVersion, Proof, ServingState, VersionStatus
from sdk.schemas.serving import ServedAdapter

__all__ = ["Bounds", "HeldRequest", "Moves", "NotServed", "UnknownModel"]


class UnknownModel(Exception):  # noqa: N818 - it reads as what happened
    """No version has this name, or it may not be seen."""


class NotServed(Exception):  # noqa: N818 - it reads as what happened
    """The version isn't served now; the message says why, in a sentence that ends with what to do."""

    def __init__(self, reason: str, *, retry_after_s: float) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class HeldRequest:
    """What a request goes to, for as long as it lasts."""

    upstream: Upstream
    #: The exact ref and the digest; None for the base.
    version: str | None
    digest: str | None
    #: The version's files.
    folder: Path | None
    proof: Proof | None
    #: Set when the table doesn't have the version any more: deleted, quarantined, or not to be seen.
    withdrawn: asyncio.Event


class Moves:
    """The names and versions in front of one engine. Everything is called from one event loop."""

    def __init__(
        self,
        engine: InferenceEngine,
        *,
        refs: Sequence[str],
        base: str | None,
        folders: VersionFolders,
        prove: Prove,
        objection: Objection | None = None,
        say: Callable[[str], None] = lambda _line: None,
        bounds: Bounds | None = None,
    ) -> None:
        """`refs` are kept moving: `NAME@ALIAS`, `NAME@vN`, or `NAME` with all of its aliases. Other names of the same adapters are
        loaded when they are first asked for. `base` is the fingerprint of the engine's base; None: not known. `say` gets each move
        and each refusal as a line.
        """
        self._engine, self._say, self._bounds = engine, say, bounds or Bounds()
        self._placing = Placing(engine, base=base, folders=folders, prove=prove, objection=objection)
        self._names = FollowedNames(refs)
        self._versions = PlacedVersions(
            engine, self._placing, self._names, bounds=self._bounds, say=say, on_change=self._reconcile
        )
        self._watch = EngineWatch(
            engine,
            every_s=self._bounds.watch_s,
            compare=self._versions.compare,
            on_return=self._versions.try_again,
            on_look=self._reconcile,
            say=say,
        )
        self._changed = asyncio.Event()

    # From outside.

    async def start(self) -> EngineFacts:
        """Wait for the engine, take out what an earlier gateway left in it, and begin to watch it. Raises EngineRefused, AdapterctlError."""
        try:
            facts = await self._first_facts()
            for name in await self._engine.loaded():
                await self._engine.release(name)
        except httpx.HTTPError as error:
            raise EngineRefused(why_silent(error)) from error
        await self._placing.begin()
        self._watch.begin()
        self._versions.spawn(self._watch.run())
        return facts

    async def _first_facts(self) -> EngineFacts:
        """Wait for the engine; one whose process ends meanwhile, such as for want of memory, is started again some times: the gateway
        answers already that it is alive.
        """
        for pause_s in self._bounds.start_pauses_s:
            try:
                return await self._engine.facts()
            except EngineDied as error:
                self._say(f"{error}; it is tried again in {pause_s:g} s")
                await asyncio.sleep(pause_s)
        return await self._engine.facts()

    def update(self, adapters: Iterable[ServedAdapter]) -> None:
        """Take a new table. Versions that it doesn't have get no request from now on; moves begin."""
        changed = self._names.update(adapters)
        for placed in self._versions:
            if placed.named.adapter in changed:
                placed.retry_s = 0.0
        self._reconcile()

    @asynccontextmanager
    async def hold(self, model: str | None) -> AsyncIterator[HeldRequest]:
        """Choose the version that a name means now, for one request; None is the base.

        A version that isn't loaded yet is waited for. Raises UnknownModel and NotServed before the block begins.
        """
        deadline_s = time.monotonic() + self._bounds.wait_s
        placed = None if model is None else await self._counted(model, deadline_s)
        try:
            if placed is None:
                await self._base_here(deadline_s)
            try:
                upstream = self._engine.route(None if placed is None else placed.name)
            except KeyError:
                self.look()
                raise NotServed("the engine was started again; ask again in a second", retry_after_s=1.0) from None
            # No step of the event loop lies between the route and this: what answers there isn't ended before.
            with upstream.running:
                yield _held(upstream, placed)
        finally:
            if placed is not None:
                placed.running -= 1
                placed.used_s = time.monotonic()
                if not placed.running:
                    self._versions.clear()
                    self._changes()

    def look(self) -> None:
        """Ask the engine at once what it has: a request was answered as if the engine had been started again."""
        self._watch.look()

    def state(self) -> list[VersionStatus]:
        """Return every version that is wanted, served or leaving, by name."""
        return [
            VersionStatus(
                placed.name,
                placed.digest,
                placed.state,
                placed.proof,
                placed.reason,
                placed.running,
                self._names.of(placed),
                placed.times,
            )
            for placed in sorted(self._versions, key=lambda each: each.name)
        ]

    def names(self) -> list[NameStatus]:
        """Return every name that is kept moving, with what it means."""
        return [self._status(each) for each in self._names]

    @property
    def trouble(self) -> str | None:
        """Why the engine isn't there, in a sentence; None if it is."""
        return self._watch.trouble

    async def settled(self) -> None:
        """Wait until nothing is being loaded or taken out."""
        while any(placed.is_busy for placed in self._versions):
            await self._changed.wait()

    async def close(self, *, ends_engine: bool = True) -> None:
        """End all moves, and what the engine's class started. Leases stay: an engine that goes on may read the folders."""
        await self._versions.close()
        if ends_engine:
            await self._engine.close()

    # Which version a request gets.

    async def _counted(self, model: str, deadline_s: float) -> PlacedVersion:
        """Return the version that a name means, counted. Raises UnknownModel, NotServed."""
        while True:
            await self._engine_here(deadline_s)
            placed = self._meant(model)
            if placed.state is ServingState.SERVING and not placed.withdrawn.is_set():
                placed.running += 1
                placed.used_s = time.monotonic()
                return placed
            placed.waiting += 1
            try:
                await self._until_changed(deadline_s, f"{placed.name} is still {placed.state.value}")
            finally:
                placed.waiting -= 1

    def _meant(self, model: str) -> PlacedVersion:
        """Return the version that a name means, on its way in if it isn't there. Raises UnknownModel, NotServed."""
        name = self._names.get(model)
        current = None if name is None else name.current
        if current is not None and not current.withdrawn.is_set() and current.state is not ServingState.REFUSED:
            return current
        named = self._names.table.find(model)
        if named is None:
            raise UnknownModel(model)
        if reason := why_not_moved(named, model):
            raise NotServed(reason, retry_after_s=self._bounds.pause_s)
        placed = self._versions.get(named.name)
        if placed is None:
            if name is None and not self._versions.make_room():
                raise NotServed(
                    f"all {self._bounds.spares} places for versions that are asked for by number are in use; ask again when a request "
                    "has ended",
                    retry_after_s=5.0,
                )
            placed = self._versions.place(named)
        now_s = time.monotonic()
        if placed.state is ServingState.REFUSED and now_s < placed.retry_s:
            raise NotServed(
                f"{placed.name} isn't served: {placed.reason}", retry_after_s=max(1.0, placed.retry_s - now_s)
            )
        self._versions.bring(placed)
        return placed

    async def _engine_here(self, deadline_s: float) -> None:
        while (trouble := self._watch.trouble) is not None:
            await self._until_changed(deadline_s, trouble)

    async def _base_here(self, deadline_s: float) -> None:
        """Wait until the base may answer. Raises NotServed.

        The base has no record; it is proved with the versions. So where one is being proved and none was, that is waited for.
        """
        on_their_way = (ServingState.PULLING, ServingState.LOADING, ServingState.PROBING)
        while True:
            await self._engine_here(deadline_s)
            if any(placed.state is ServingState.SERVING for placed in self._versions):
                return
            if any(placed.state in on_their_way for placed in self._versions):
                await self._until_changed(deadline_s, "the engine's base is still being proved")
                continue
            other = next((placed for placed in self._versions if placed.is_other_base), None)
            if other is not None:
                reason = other.reason or "the engine has another one than its versions; start it with theirs"
                raise NotServed(f"the base isn't served: {reason}", retry_after_s=self._bounds.pause_s)
            return

    async def _until_changed(self, deadline_s: float, why: str) -> None:
        left_s = deadline_s - time.monotonic()
        try:
            async with asyncio.timeout(max(left_s, 0.0)):
                await self._changed.wait()
        except TimeoutError:
            raise NotServed(f"{why}; ask again in some seconds", retry_after_s=5.0) from None

    def _changes(self) -> None:
        """Wake everybody who waits for a change."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    # What names mean. All of this is plain code without a wait, so that nothing changes meanwhile.

    def _reconcile(self) -> None:
        if self._versions.is_closing:
            return
        for placed in self._versions:
            if not self._names.table.has(placed.named):
                placed.withdrawn.set()
            elif placed.withdrawn.is_set():
                placed.withdrawn = asyncio.Event()
        for name in self._names:
            self._advance(name)
        self._versions.clear()
        self._changes()

    def _advance(self, name: FollowedName) -> None:
        """Move a name if what it is to mean is there; else begin to bring it in."""
        wanted = self._names.table.find(name.name)
        if wanted != name.wanted:
            name.wanted, name.seen = wanted, time.time()
        if name.current is not None and (wanted is None or name.current.withdrawn.is_set()):
            name.current = None
        if name.current is not None and name.current.state is not ServingState.SERVING:
            # It was lost with the engine, and goes on if the new one is refused.
            self._versions.bring(name.current)
        if wanted is None or why_not_moved(wanted, name.name):
            return
        placed = self._versions.place(wanted)
        if not placed.is_of(wanted):
            # Another version had this name. It leaves first.
            return
        if placed.state is ServingState.SERVING:
            self._switch(name, placed)
        else:
            self._versions.bring(placed)

    def _switch(self, name: FollowedName, placed: PlacedVersion) -> None:
        before = name.current
        if before is placed:
            return
        name.current = placed
        placed.used_s = time.monotonic()
        placed.times.switched = time.time()
        times = MoveTimes(
            name.seen,
            *(_since(name.seen, at) for at in (placed.times.pulled, placed.times.loaded, placed.times.probed)),
        )
        times.switched = placed.times.switched
        proof = "" if placed.proof in (None, Proof.PASSED) else f" ({placed.proof.value})"
        self._say(f"{name.name}: {'' if before is None else f'{before.name} → '}{placed.name}{proof}; {times}")

    def _status(self, name: FollowedName) -> NameStatus:
        wanted = None if name.wanted is None else name.wanted.name
        reason = None if name.wanted is None else why_not_moved(name.wanted, name.name)
        placed = None if wanted is None else self._versions.get(wanted)
        if placed is not None and placed.state is ServingState.REFUSED:
            reason = placed.reason
        return NameStatus(name.name, None if name.current is None else name.current.name, wanted, reason)


def _held(upstream: Upstream, placed: PlacedVersion | None) -> HeldRequest:
    if placed is None:
        return HeldRequest(upstream, None, None, None, None, asyncio.Event())
    folder = None if placed.fetched is None else placed.fetched.folder
    return HeldRequest(upstream, placed.name, placed.digest, folder, placed.proof, placed.withdrawn)


def _since(seen: float, at: float | None) -> float | None:
    return at if at is not None and at >= seen else None
