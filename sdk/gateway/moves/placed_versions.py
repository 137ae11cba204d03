"""The versions in an engine, on their way in and on their way out: what is brought in, what may leave, and what is tried again.

Where nothing is awaited, nothing changes meanwhile: what is to be done is decided in one step of the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

from sdk.gateway.engines.engine import InferenceEngine
from sdk.gateway.moves.followed_names import FollowedNames
from sdk.gateway.moves.placing import Abandoned, Placing, VersionRefused
from sdk.gateway.moves.versions import MoveTimes, PlacedVersion, ServingState
from sdk.gateway.tables.model_names import NamedVersion

#: Versions that were refused and are remembered although no name that is kept moving means them.
_REMEMBERED = 64


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
    #: The pauses between the first tries to start an engine whose process ends before it is ready.
    start_pauses_s: tuple[float, ...] = (0.5, 2.0)


class PlacedVersions:
    """Those of one engine. Each has one task at most, which brings it in or takes it out."""

    def __init__(
        self,
        engine: InferenceEngine,
        placing: Placing,
        names: FollowedNames,
        *,
        bounds: Bounds,
        say: Callable[[str], None],
        on_change: Callable[[], None],
    ) -> None:
        """`on_change` is called when a version has come in, or out."""
        self._engine, self._placing, self._names = engine, placing, names
        self._bounds, self._say, self._on_change = bounds, say, on_change
        self._versions: dict[str, PlacedVersion] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.is_closing = False

    def __iter__(self) -> Iterator[PlacedVersion]:
        """Yield them."""
        return iter(self._versions.values())

    def get(self, name: str) -> PlacedVersion | None:
        """Return one by its name in the engine."""
        return self._versions.get(name)

    def place(self, named: NamedVersion) -> PlacedVersion:
        """Return the version with this name; it may have other bytes, and then leaves first."""
        return self._versions.setdefault(named.name, PlacedVersion(named))

    def bring(self, placed: PlacedVersion) -> None:
        """Begin to bring a version in, unless that was begun, or is to be tried later."""
        if placed.is_busy or placed.withdrawn.is_set() or self.is_closing:
            return
        if placed.state is ServingState.WANTED or (
            placed.state is ServingState.REFUSED and time.monotonic() >= placed.retry_s
        ):
            placed.times = MoveTimes()
            placed.state = ServingState.PULLING
            placed.task = self.spawn(self._bringing(placed, again=False))

    def make_room(self) -> bool:
        """Let the least recently used version go, if all places for those that no name means are taken; return whether there is room."""
        spares = self._spares()
        if len(spares) < self._bounds.spares:
            return True
        idle = [placed for placed in spares if self._may_leave(placed)]
        if not idle:
            return False
        self._release(min(idle, key=lambda placed: placed.used_s))
        return True

    def clear(self) -> None:
        """Let go what nobody wants."""
        if self.is_closing:
            return
        for placed in [each for each in self if each.withdrawn.is_set() and self._may_leave(each)]:
            self._release(placed)
        spares = [placed for placed in self._spares() if placed.state is ServingState.SERVING]
        idle = sorted((each for each in spares if self._may_leave(each)), key=lambda each: each.used_s)
        for placed in idle[: max(0, len(spares) - self._bounds.spares)]:
            self._release(placed)
        self._forget()

    async def compare(self) -> None:
        """Bring back what the engine has lost. Raises httpx.HTTPError while it is away."""
        serving = [placed for placed in self if placed.state is ServingState.SERVING]
        have = await self._engine.loaded()
        for placed in serving:
            if placed.state is ServingState.SERVING and placed.name not in have:
                self._say(f"{placed.name} is loaded again: the engine doesn't have it any more")
                placed.state = ServingState.LOADING
                placed.task = self.spawn(self._bringing(placed, again=True))

    def try_again(self) -> None:
        """Try again, when next asked for, what was refused for something that passes by itself."""
        for placed in self:
            if placed.is_passing:
                placed.retry_s = 0.0

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin something that ends with these versions."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """End all that was begun. Versions stay in the engine, and leased."""
        self.is_closing = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spares(self) -> list[PlacedVersion]:
        """Return the versions in the engine, or on their way in, that no name means."""
        leaving = (ServingState.REFUSED, ServingState.WANTED, ServingState.RELEASING)
        return [each for each in self if each.state not in leaving and not self._names.mean(each)]

    def _may_leave(self, placed: PlacedVersion) -> bool:
        unused = placed.state is ServingState.SERVING and not placed.running
        return unused and (placed.withdrawn.is_set() or not (placed.waiting or self._names.mean(placed)))

    def _is_wanted(self, placed: PlacedVersion) -> bool:
        """Whether a version that is on its way in is to go on."""
        return not placed.withdrawn.is_set() and (bool(placed.waiting) or self._names.mean(placed))

    def _forget(self) -> None:
        """Drop what is not in the engine and not on its way, except the newest refusals of versions that still exist."""
        waiting = (ServingState.REFUSED, ServingState.WANTED)
        idle = [
            each
            for each in self
            if each.state in waiting and not each.is_busy and not self._names.mean(each) and not each.waiting
        ]
        remembered = [each for each in idle if each.state is ServingState.REFUSED and not each.withdrawn.is_set()]
        remembered.sort(key=lambda each: each.used_s)
        gone = [each for each in idle if each not in remembered]
        for placed in [*gone, *remembered[: max(0, len(remembered) - _REMEMBERED)]]:
            del self._versions[placed.name]

    def _release(self, placed: PlacedVersion) -> None:
        placed.state = ServingState.RELEASING
        placed.task = self.spawn(self._releasing(placed))

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
        self._on_change()

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
                for name in self._names
                if name.current is not None and name.current is not placed and placed.is_of(name.wanted)
            ]
            self._say("; ".join([f"{placed.name} is refused: {placed.reason}", *old]))

    async def _releasing(self, placed: PlacedVersion) -> None:
        await self._placing.take_out(placed)
        del self._versions[placed.name]
        self._say(f"{placed.name} was released")
        self._on_change()
