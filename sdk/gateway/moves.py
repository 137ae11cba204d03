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
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from sdk.gateway.engines.engine import EngineFacts, EngineRefused, InferenceEngine, Upstream
from sdk.gateway.model_names import ModelNames, NamedVersion, is_exact
from sdk.gateway.placing import Abandoned, Objection, Placing, Prove, VersionFolders, VersionRefused
from sdk.gateway.versions import MoveTimes, NameStatus, PlacedVersion, Proof, ServingState, VersionStatus
from sdk.schemas.serving import ServedAdapter

#: Versions that were refused and are remembered although no name that is kept moving means them.
_REMEMBERED = 64
#: Names that are kept moving; the aliases beyond these are loaded when they are asked for.
_MOST_FOLLOWED = 64


class UnknownModel(Exception):  # noqa: N818 - it reads as what happened
    """No version has this name, or it may not be seen."""


class NotServed(Exception):  # noqa: N818 - it reads as what happened
    """The version isn't served now; the message says why, in a sentence that ends with what to do."""

    def __init__(self, reason: str, *, retry_after_s: float) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Bounds:
    """How much, and how long."""

    #: Versions that stay loaded although no name that is kept moving means them: those before the last moves, and those asked for by
    #: their number.
    spares: int = 4
    #: For so long a request waits for a version that is being loaded, or an engine that is away.
    wait_s: float = 60.0
    #: The pause after a refusal, and after one that may pass by itself; both double up to the most.
    pause_s: float = 30.0
    pause_most_s: float = 600.0
    passing_s: float = 1.0
    passing_most_s: float = 10.0
    #: How often the engine is asked what it has.
    watch_s: float = 1.0


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


class _Name:
    """A name that is kept moving."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.current: PlacedVersion | None = None
        #: What the table says, and since when.
        self.wanted: NamedVersion | None = None
        self.seen = time.time()


class Moves:
    """The versions in front of one engine. Everything is called from one event loop."""

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
        self._engine, self._refs, self._say, self._bounds = engine, tuple(refs), say, bounds or Bounds()
        self._scope = {ref.partition("@")[0] for ref in refs}
        self._placing = Placing(engine, base=base, folders=folders, prove=prove, objection=objection)
        self._table: dict[str, ServedAdapter] = {}
        self._model_names = ModelNames(())
        self._names: dict[str, _Name] = {}
        self._versions: dict[str, PlacedVersion] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed, self._look = asyncio.Event(), asyncio.Event()
        #: Set while the engine is there.
        self._here = asyncio.Event()
        self._is_closing = False
        self._away_for: str | None = None

    # From outside.

    async def start(self) -> EngineFacts:
        """Wait for the engine, take out what an earlier gateway left in it, and begin to watch it. Raises EngineRefused, AdapterctlError."""
        try:
            facts = await self._engine.facts()
            for name in await self._engine.loaded():
                await self._engine.release(name)
        except httpx.HTTPError as error:
            raise EngineRefused(_silence(error)) from error
        await self._placing.begin()
        self._here.set()
        self._spawn(self._watch())
        return facts

    def update(self, adapters: Iterable[ServedAdapter]) -> None:
        """Take a new table. Versions that it doesn't have get no request from now on; moves begin."""
        table = {each.name: each for each in adapters if each.name in self._scope}
        for placed in self._versions.values():
            if table.get(placed.named.adapter) != self._table.get(placed.named.adapter):
                placed.retry_s = 0.0
        self._table, self._model_names = table, ModelNames(table.values())
        followed = [name for ref in self._refs for name in self._model_names.followed(ref)][:_MOST_FOLLOWED]
        self._names = {name: self._names.get(name) or _Name(name) for name in followed}
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
                    self._clear()
                    self._changes()

    def look(self) -> None:
        """Ask the engine at once what it has: a request was answered as if the engine had been started again."""
        self._look.set()

    def state(self) -> list[VersionStatus]:
        """Return every version that is wanted, served or leaving, by name."""
        meant: dict[str, list[str]] = {}
        for each in self._names.values():
            if each.current is not None:
                meant.setdefault(each.current.name, []).append(each.name)
        return [
            VersionStatus(
                placed.name,
                placed.digest,
                placed.state,
                placed.proof,
                placed.reason,
                placed.running,
                tuple(meant.get(placed.name, ())),
                placed.times,
            )
            for _name, placed in sorted(self._versions.items())
        ]

    def names(self) -> list[NameStatus]:
        """Return every name that is kept moving, with what it means."""
        return [self._status(each) for each in self._names.values()]

    @property
    def trouble(self) -> str | None:
        """Why the engine isn't there, in a sentence; None if it is."""
        return None if self._here.is_set() else self._away_for or "the engine isn't there yet"

    async def settled(self) -> None:
        """Wait until nothing is being loaded or taken out."""
        while any(placed.is_busy for placed in self._versions.values()):
            await self._changed.wait()

    async def close(self, *, ends_engine: bool = True) -> None:
        """End all moves, and what the engine's class started. Leases stay: an engine that goes on may read the folders."""
        self._is_closing = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
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
        named = self._model_names.find(model)
        if named is None:
            raise UnknownModel(model)
        if reason := _not_moved_to(named, model):
            raise NotServed(reason, retry_after_s=self._bounds.pause_s)
        placed = self._versions.get(named.name)
        if placed is None:
            if name is None:
                self._make_room()
            placed = self._place(named)
        now_s = time.monotonic()
        if placed.state is ServingState.REFUSED and now_s < placed.retry_s:
            raise NotServed(
                f"{placed.name} isn't served: {placed.reason}", retry_after_s=max(1.0, placed.retry_s - now_s)
            )
        self._bring(placed)
        return placed

    def _make_room(self) -> None:
        """Let the least recently used version go, if all places for those that no name means are taken. Raises NotServed."""
        spares = self._spares()
        if len(spares) < self._bounds.spares:
            return
        idle = [placed for placed in spares if self._may_leave(placed)]
        if not idle:
            raise NotServed(
                f"all {self._bounds.spares} places for versions that are asked for by number are in use; ask again when a request has "
                "ended",
                retry_after_s=5.0,
            )
        self._release(min(idle, key=lambda placed: placed.used_s))

    async def _engine_here(self, deadline_s: float) -> None:
        while not self._here.is_set():
            await self._until_changed(deadline_s, self.trouble or "the engine isn't there")

    async def _base_here(self, deadline_s: float) -> None:
        """Wait until the base may answer. Raises NotServed.

        The base has no record; it is proved with the versions. So where one is being proved and none was, that is waited for.
        """
        on_their_way = (ServingState.PULLING, ServingState.LOADING, ServingState.PROBING)
        while True:
            await self._engine_here(deadline_s)
            versions = self._versions.values()
            if any(placed.state is ServingState.SERVING for placed in versions):
                return
            if any(placed.state in on_their_way for placed in versions):
                await self._until_changed(deadline_s, "the engine's base is still being proved")
                continue
            other = next((placed for placed in versions if placed.is_other_base), None)
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

    # What is to be done now. All of this is plain code without a wait, so that nothing changes meanwhile.

    def _reconcile(self) -> None:
        if self._is_closing:
            return
        for placed in self._versions.values():
            if not self._model_names.has(placed.named):
                placed.withdrawn.set()
            elif placed.withdrawn.is_set():
                placed.withdrawn = asyncio.Event()
        for name in self._names.values():
            self._advance(name)
        self._clear()
        self._changes()

    def _advance(self, name: _Name) -> None:
        """Move a name if what it is to mean is there; else begin to bring it in."""
        wanted = self._model_names.find(name.name)
        if wanted != name.wanted:
            name.wanted, name.seen = wanted, time.time()
        if name.current is not None and (wanted is None or name.current.withdrawn.is_set()):
            name.current = None
        if name.current is not None and name.current.state is not ServingState.SERVING:
            # It was lost with the engine, and goes on if the new one is refused.
            self._bring(name.current)
        if wanted is None or _not_moved_to(wanted, name.name):
            return
        placed = self._place(wanted)
        if not placed.is_of(wanted):
            # Another version had this name. It leaves first.
            return
        if placed.state is ServingState.SERVING:
            self._switch(name, placed)
        else:
            self._bring(placed)

    def _switch(self, name: _Name, placed: PlacedVersion) -> None:
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

    def _place(self, named: NamedVersion) -> PlacedVersion:
        return self._versions.setdefault(named.name, PlacedVersion(named))

    def _bring(self, placed: PlacedVersion) -> None:
        """Begin to bring a version in, unless that was begun, or is to be tried later."""
        if placed.is_busy or placed.withdrawn.is_set() or self._is_closing:
            return
        if placed.state is ServingState.WANTED or (
            placed.state is ServingState.REFUSED and time.monotonic() >= placed.retry_s
        ):
            placed.times = MoveTimes()
            placed.state = ServingState.PULLING
            placed.task = self._spawn(self._bringing(placed, again=False))

    def _clear(self) -> None:
        """Let go what nobody wants."""
        if self._is_closing:
            return
        for placed in [each for each in self._versions.values() if each.withdrawn.is_set() and self._may_leave(each)]:
            self._release(placed)
        spares = [placed for placed in self._spares() if placed.state is ServingState.SERVING]
        idle = sorted((each for each in spares if self._may_leave(each)), key=lambda each: each.used_s)
        for placed in idle[: max(0, len(spares) - self._bounds.spares)]:
            self._release(placed)
        self._forget()

    def _forget(self) -> None:
        """Drop what is not in the engine and not on its way, except the newest refusals of versions that still exist."""
        waiting = (ServingState.REFUSED, ServingState.WANTED)
        idle = [
            each
            for each in self._versions.values()
            if each.state in waiting and not each.is_busy and not self._is_meant(each) and not each.waiting
        ]
        remembered = [each for each in idle if each.state is ServingState.REFUSED and not each.withdrawn.is_set()]
        remembered.sort(key=lambda each: each.used_s)
        gone = [each for each in idle if each not in remembered]
        for placed in [*gone, *remembered[: max(0, len(remembered) - _REMEMBERED)]]:
            del self._versions[placed.name]

    def _spares(self) -> list[PlacedVersion]:
        """Return the versions in the engine, or on their way in, that no name means."""
        leaving = (ServingState.REFUSED, ServingState.WANTED, ServingState.RELEASING)
        return [each for each in self._versions.values() if each.state not in leaving and not self._is_meant(each)]

    def _is_meant(self, placed: PlacedVersion) -> bool:
        """Whether a name that is kept moving means a version, or is to."""
        return any(name.current is placed or placed.is_of(name.wanted) for name in self._names.values())

    def _may_leave(self, placed: PlacedVersion) -> bool:
        unused = placed.state is ServingState.SERVING and not placed.running
        return unused and (placed.withdrawn.is_set() or not (placed.waiting or self._is_meant(placed)))

    def _is_wanted(self, placed: PlacedVersion) -> bool:
        """Whether a version that is on its way in is to go on."""
        return not placed.withdrawn.is_set() and (bool(placed.waiting) or self._is_meant(placed))

    def _release(self, placed: PlacedVersion) -> None:
        placed.state = ServingState.RELEASING
        placed.task = self._spawn(self._releasing(placed))

    # What takes time.

    async def _bringing(self, placed: PlacedVersion, *, again: bool) -> None:
        """Bring a version in; `again`: into an engine that has lost it."""

        def is_wanted() -> bool:
            return (again and not placed.withdrawn.is_set()) or self._is_wanted(placed)

        try:
            await (self._placing.load(placed, is_wanted) if again else self._placing.bring(placed, is_wanted))
        except (Abandoned, VersionRefused) as error:
            await self._back(placed, error)
        else:
            placed.reason, placed.refusals, placed.is_passing, placed.is_other_base = None, 0, False, False
            placed.state = ServingState.SERVING
        placed.task = None
        self._reconcile()

    async def _back(self, placed: PlacedVersion, error: Abandoned | VersionRefused) -> None:
        """Take out what was begun, and remember why."""
        if isinstance(error, VersionRefused) and not error.is_passing:
            # Before anything is waited for: the base's requests ask.
            placed.is_other_base = error.is_other_base
        placed.state = ServingState.RELEASING
        await self._placing.take_out(placed)
        if isinstance(error, Abandoned):
            placed.state = ServingState.WANTED
            return
        news = placed.reason != str(error)
        placed.reason, placed.proof, placed.is_passing = str(error), None, error.is_passing
        first_s, most_s = (
            (self._bounds.passing_s, self._bounds.passing_most_s)
            if error.is_passing
            else (self._bounds.pause_s, self._bounds.pause_most_s)
        )
        placed.retry_s = time.monotonic() + min(most_s, first_s * 2 ** min(placed.refusals, 20))
        placed.refusals += 1
        placed.state = ServingState.REFUSED
        if news:
            old = [
                f"{name.name} stays {name.current.name}"
                for name in self._names.values()
                if name.current is not None and name.current is not placed and placed.is_of(name.wanted)
            ]
            self._say("; ".join([f"{placed.name} is refused: {placed.reason}", *old]))

    async def _releasing(self, placed: PlacedVersion) -> None:
        await self._placing.take_out(placed)
        del self._versions[placed.name]
        self._say(f"{placed.name} was released")
        self._reconcile()

    async def _watch(self) -> None:
        """Ask the engine what it has; bring back what it has lost; try again what was to be tried later."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._bounds.watch_s):
                    await self._look.wait()
            self._look.clear()
            try:
                await self._compare()
            except httpx.TimeoutException:
                # It is busy; what it has, it still has.
                continue
            except Exception as error:  # noqa: BLE001 - whatever it answers, somebody goes on watching it
                await self._away(error)
            self._reconcile()

    async def _compare(self) -> None:
        serving = [placed for placed in self._versions.values() if placed.state is ServingState.SERVING]
        have = await self._engine.loaded()
        for placed in serving:
            if placed.state is ServingState.SERVING and placed.name not in have:
                self._say(f"{placed.name} is loaded again: the engine doesn't have it any more")
                placed.state = ServingState.LOADING
                placed.task = self._spawn(self._bringing(placed, again=True))

    async def _away(self, error: Exception) -> None:
        """Wait until the engine is there, and bring back what it has lost before any request goes on."""
        self._here.clear()
        self._away_for = _silence(error)
        self._say(self._away_for)
        while True:
            try:
                await self._engine.facts()
                await self._compare()
            except Exception as reason:  # noqa: BLE001 - as above
                self._away_for = str(reason)[:500] or type(reason).__name__
                await asyncio.sleep(self._bounds.watch_s)
            else:
                break
        for placed in self._versions.values():
            if placed.is_passing:
                placed.retry_s = 0.0
        self._here.set()
        self._say("the engine is there again")

    def _status(self, name: _Name) -> NameStatus:
        wanted = None if name.wanted is None else name.wanted.name
        reason = None if name.wanted is None else _not_moved_to(name.wanted, name.name)
        placed = None if wanted is None else self._versions.get(wanted)
        if placed is not None and placed.state is ServingState.REFUSED:
            reason = placed.reason
        return NameStatus(name.name, None if name.current is None else name.current.name, wanted, reason)

    def _changes(self) -> None:
        """Wake everybody who waits for a change."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _held(upstream: Upstream, placed: PlacedVersion | None) -> HeldRequest:
    if placed is None:
        return HeldRequest(upstream, None, None, None, None, asyncio.Event())
    folder = None if placed.fetched is None else placed.fetched.folder
    return HeldRequest(upstream, placed.name, placed.digest, folder, placed.proof, placed.withdrawn)


def _silence(error: Exception) -> str:
    return f"the engine doesn't answer ({str(error)[:200] or type(error).__name__}); look at its log"


def _not_moved_to(named: NamedVersion, model: str) -> str | None:
    """Say why a name isn't moved to a version; None if it may be."""
    if named.version.state == "ready" or is_exact(model):
        return None
    return f"{named.name} is archived; restore it with: adapterctl restore {named.name}, or ask for it by its number"


def _since(seen: float, at: float | None) -> float | None:
    return at if at is not None and at >= seen else None
