"""Lanes: threads for one kind of work, whose places are given out by turns among the namespaces that wait for one.

Who is asking, and whether they are still there, is known to a lane from the request that is being answered.

A namespace alone may have them all. While others wait too, the next place goes to the one of them that has fewest; if
several have equally few, to the one whose last turn is longest ago. So while others wait, none is given more than half
of the places, and each gets its turn after at most one of every other.

>>> turns = Turns(at_once=2)
>>> async def asking() -> list[str]:
...     order: list[str] = []
...     async def work(who: str) -> None:
...         async with turns.turn(who):
...             order.append(who)
...             await asyncio.sleep(0)
...     await asyncio.gather(*map(work, ("ana", "ana", "ana", "ana", "ben")))
...     return order
>>> asyncio.run(asking())
['ana', 'ana', 'ben', 'ana', 'ana']
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from anyio.lowlevel import RunVar
from anyio.to_thread import run_sync
from starlette.types import Receive

from registry.errors import RateLimited, Unavailable
from registry.pools import Occupancy, Pool
from registry.principal import Principal

T = TypeVar("T")

#: How many may wait, in all, and how long, in seconds.
MOST_WAITING = 64
WAIT_S = 30.0


class Turns:
    """Gives out places of one event loop. It knows no clock and no thread: who has a place gives it back."""

    def __init__(
        self, *, at_once: int, newcomers: int = 0, waiting: int = MOST_WAITING, wait_s: float = WAIT_S
    ) -> None:
        """There are `at_once` places for everybody, and `newcomers` more for namespaces that have none: one that came
        alone and took all places does not hold the next one up.

        No more than `waiting` requests wait, each for `wait_s`; a namespace may take no more of these than it leaves to
        all others.
        """
        self._at_once = at_once
        self._newcomers = newcomers
        self._most_waiting = waiting
        self._wait_s = wait_s
        self._running: Counter[str] = Counter()
        #: By namespace, those that wait, in the order in which they came. The namespace whose turn is longest ago comes
        #: first.
        self._waiting: dict[str, dict[asyncio.Future[None], None]] = {}

    @property
    def by_holder(self) -> Mapping[str, int]:
        """How many each namespace has running and waiting, for those that have any."""
        return self._running + Counter({holder: len(waiting) for holder, waiting in self._waiting.items()})

    @property
    def occupancy(self) -> Occupancy:
        """How many run and wait."""
        return Occupancy(self._running.total(), sum(map(len, self._waiting.values())), self._at_once)

    @asynccontextmanager
    async def turn(
        self, holder: str, *, bounded: bool = True, leaves: Callable[[], Awaitable[object]] | None = None
    ) -> AsyncIterator[None]:
        """Hold a place for the block, once it is the turn of `holder`. The place of a request whose client `leaves`
        while it waits is given up.

        Raises RateLimited if the namespace's own requests are in the way, and Unavailable if everybody's are, or the
        client has left. Who isn't `bounded` waits as long as it takes, however many do.
        """
        if self._may_run(holder):
            self._running[holder] += 1
        else:
            await self._wait(holder, bounded, leaves)
        try:
            yield
        finally:
            self._leave(holder)

    async def _wait(self, holder: str, bounded: bool, leaves: Callable[[], Awaitable[object]] | None) -> None:
        if bounded:
            self._require_room(holder)
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(holder, {})[granted] = None
        watching = None if leaves is None else asyncio.ensure_future(_left(leaves))
        try:
            await asyncio.wait(
                [granted] if watching is None else [granted, watching],
                timeout=self._wait_s if bounded else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if watching is not None and not watching.done():
                # Two must not read from a client at once.
                watching.cancel()
                await asyncio.wait([watching])
        except BaseException:
            if watching is not None:
                watching.cancel()
            if granted.done():
                self._leave(holder)
            else:
                self._forget(holder, granted)
            raise
        has_left = watching is not None and not watching.cancelled()
        if granted.done():
            return
        self._forget(holder, granted)
        if has_left:
            raise Unavailable("the client has left; nobody reads this")
        raise self._late(holder)

    def _may_run(self, holder: str) -> bool:
        """Whether there is a place. As long as there is one for everybody, nobody waits."""
        running = self._running.total()
        return running < self._at_once + (0 if self._running[holder] else self._newcomers)

    def _leave(self, holder: str) -> None:
        self._running[holder] -= 1
        if not self._running[holder]:
            del self._running[holder]
        while (chosen := self._next()) is not None:
            waiting = self._waiting.pop(chosen)
            granted = next(iter(waiting))
            del waiting[granted]
            if waiting:
                # Behind all others.
                self._waiting[chosen] = waiting
            self._running[chosen] += 1
            granted.set_result(None)

    def _next(self) -> str | None:
        """Whose turn it is; None if there is no place for any of those that wait."""
        able = [holder for holder in self._waiting if self._may_run(holder)]
        # The first of several that have equally few.
        return min(able, key=lambda holder: self._running[holder], default=None)

    def _forget(self, holder: str, granted: asyncio.Future[None]) -> None:
        waiting = self._waiting[holder]
        del waiting[granted]
        if not waiting:
            del self._waiting[holder]

    def _require_room(self, holder: str) -> None:
        own = len(self._waiting.get(holder, ()))
        left = self._most_waiting - sum(map(len, self._waiting.values()))
        if left <= 0:
            raise Unavailable("too many requests wait for this already; send the same request again shortly")
        # So some are left for the next one, however many namespaces take all they can.
        if own >= left:
            raise RateLimited(
                "as many requests of this namespace wait for this as may; send the same request again once others are answered"
            )

    def _late(self, holder: str) -> Unavailable:
        waited = f"the request has waited {self._wait_s:g} s for its turn"
        if self._running[holder]:
            return RateLimited(f"{waited} behind others of this namespace; send fewer at once, and this one again")
        return Unavailable(f"{waited}, because the server is busy; send the same request again shortly")


async def _left(leaves: Callable[[], Awaitable[object]]) -> None:
    # A connection that can't be read any more has no client either.
    with suppress(OSError):
        await leaves()


@dataclass(frozen=True)
class Caller:
    """Who has sent the request that is being answered, and how the server learns that they have gone."""

    who: Principal
    receive: Receive

    async def leaves(self) -> None:
        """Return once the client has gone. Only for a request whose body has been read."""
        while (await self.receive())["type"] != "http.disconnect":
            pass


_caller: ContextVar[Caller | None] = ContextVar("registry_caller", default=None)


@contextmanager
def answering(who: Principal, receive: Receive) -> Iterator[None]:
    """Let lanes know whose request is answered in the block."""
    before = _caller.set(Caller(who, receive))
    try:
        yield
    finally:
        _caller.reset(before)


class Lane:
    """One lane of a process; each event loop has its own places in it."""

    def __init__(
        self,
        pool: Pool,
        *,
        at_once: int,
        newcomers: int = 0,
        waiting: int = MOST_WAITING,
        wait_s: float = WAIT_S,
    ) -> None:
        """See `Turns`."""
        self._pool = pool
        self._make = partial(Turns, at_once=at_once, newcomers=newcomers, waiting=waiting, wait_s=wait_s)
        self._kept: RunVar[Turns] = RunVar(f"registry_lane_{pool.name}")
        pool.watch(self)

    @property
    def occupancy(self) -> Occupancy:
        """How many run and wait in this event loop."""
        return self._turns().occupancy

    async def run(self, call: Callable[..., T], *given: object, holder: str | None = None, **named: object) -> T:
        """Call a function in a thread of this lane, once it is the turn of whoever pays for it.

        That is `holder`, or else a namespace of the caller. Raises what `Turns.turn` does.
        """
        async with self.turn(holder):
            # It never waits for a thread: there are as many as places.
            return await run_sync(partial(call, *given, **named), limiter=self._pool.limiter(1))

    @asynccontextmanager
    async def turn(self, holder: str | None = None) -> AsyncIterator[None]:
        """Hold a place in this lane for the block."""
        turns, caller = self._turns(), _caller.get()
        leaves: Callable[[], Awaitable[object]] | None = None
        bounded = caller is not None and caller.who.token_id is not None
        if caller is not None:
            holder = caller.who.payer(turns.by_holder) if holder is None else holder
            # Without tokens, as in an embedded registry, there is nobody else who could have a turn.
            leaves = caller.leaves if bounded else None
        async with turns.turn(holder or "", bounded=bounded, leaves=leaves):
            yield

    def _turns(self) -> Turns:
        found = self._kept.get(None)
        if found is None:
            found = self._make()
            self._kept.set(found)
        return found
