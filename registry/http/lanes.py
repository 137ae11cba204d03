"""Lanes: threads for one kind of work, whose places the namespaces that wait for one get by turns.

Who is asking, and whether they are still there, is known to a lane from the request that is being answered.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from anyio.lowlevel import RunVar
from anyio.to_thread import run_sync
from starlette.types import Receive

from registry.http.turns import MOST_WAITING, WAIT_S, Turns
from registry.pools import Pool
from registry.principal import Principal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anyio import CapacityLimiter

T = TypeVar("T")


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


class _Places(NamedTuple):
    turns: Turns
    threads: CapacityLimiter


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
        self._most = at_once + newcomers
        self._make = partial(Turns, at_once=at_once, newcomers=newcomers, waiting=waiting, wait_s=wait_s)
        self._kept: RunVar[_Places] = RunVar(f"registry_lane_{pool.name}")

    async def run(self, call: Callable[..., T], *given: object, holder: str | None = None, **named: object) -> T:
        """Call a function in a thread of this lane, once it is the turn of whoever pays for it.

        That is `holder`, or else a namespace of the caller. Raises what `Turns.turn` does.
        """
        async with self.turn(holder):
            # It never waits for a thread: there are as many as places.
            return await run_sync(partial(call, *given, **named), limiter=self._places().threads)

    @asynccontextmanager
    async def turn(self, holder: str | None = None) -> AsyncIterator[None]:
        """Hold a place in this lane for the block."""
        turns, caller = self._places().turns, _caller.get()
        leaves: Callable[[], Awaitable[object]] | None = None
        bounded = caller is not None and caller.who.token_id is not None
        if caller is not None:
            holder = caller.who.payer(turns.by_holder) if holder is None else holder
            # Without tokens, as in an embedded registry, there is nobody else who could have a turn.
            leaves = caller.leaves if bounded else None
        async with turns.turn(holder or "", bounded=bounded, leaves=leaves):
            yield

    def _places(self) -> _Places:
        found = self._kept.get(None)
        if found is None:
            found = _Places(self._make(), self._pool.limiter(self._most))
            self._kept.set(found)
        return found
