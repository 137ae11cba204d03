"""Room for bodies as they come in and for their values: each takes as much memory as it has sent, and a slow one has to
make room for others.

The length that a request announces takes no memory. So bodies may block each other half-way; then some of them are
refused, so that the others can come in: those that their clients send slowly, or else the youngest, of whoever holds
most.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from registry.errors import RateLimited, RegistryError, TooLarge, TooSlow, Unavailable
from registry.principal import Principal

#: How long a body may take to come in, and to wait for others to give back what they hold, in seconds.
READ_S, MEMORY_TIMEOUT_S = 60.0, 10.0
#: After how long an incomplete body may have to make room, in seconds.
SLOW_S = 1.0
#: How often waiting bodies check whether another one has become slow, in seconds.
_LOOK_S = 0.25


@dataclass(eq=False, slots=True)
class Body:
    """One body, on its way in or held until its request has been answered."""

    who: Principal
    began: float
    #: For which of the caller's namespaces its room holds it.
    holder: str = ""
    data: bytearray = field(default_factory=bytearray)
    #: How much of it the room has counted, and how large the piece is that waits to be counted.
    held_bytes: int = 0
    wanted_bytes: int = 0
    is_whole: bool = False
    refusal: RegistryError | None = None
    room: BodyBudget | None = None
    #: Whether it is still coming in.
    time_limit: asyncio.Timeout | None = None
    granted: asyncio.Event | None = None

    def leave(self) -> None:
        """Give back everything that is held for it; repeating it is harmless."""
        if self.room is not None:
            self.room.remove(self)

    def refuse(self, error: RegistryError) -> None:
        """Let go of it, and let the one who reads it raise this."""
        self.refusal = error
        self.leave()
        self.data.clear()
        if self.granted is not None:
            self.granted.set()
        elif self.time_limit is not None and not self.time_limit.expired():
            self.time_limit.reschedule(asyncio.get_running_loop().time())


class BodyBudget:
    """Room for bodies: never more than `total_bytes` in all, and never more than `share_bytes` for one namespace.

    Pieces that wait for room take memory too, at most `waiting_bytes` in all; what is only about to be made takes none.
    """

    def __init__(self, *, total_bytes: int, share_bytes: int, waiting_bytes: float = math.inf) -> None:
        self._total_bytes = total_bytes
        self._share_bytes = share_bytes
        self._most_waiting_bytes = waiting_bytes
        self._taken_bytes = 0
        self._waiting_bytes = 0
        self._by_holder: dict[str, int] = {}
        self._by_token: dict[str, int] = {}
        #: In the order in which they came.
        self._bodies: dict[Body, None] = {}
        self._waiting: dict[Body, None] = {}
        self._looked_at = float("-inf")
        self._settling = False

    def begin(self, who: Principal, *, is_whole: bool = False) -> Body:
        """Begin to hold a body, or what is made of a whole one; the caller must call its `leave` once the request has been
        answered.
        """
        body = Body(who, asyncio.get_running_loop().time(), is_whole=is_whole)
        self.add(body)
        return body

    def add(self, body: Body) -> None:
        """Begin to hold a body, of which nothing is counted yet."""
        body.room = self
        body.holder = body.who.payer(self._by_holder)
        self._bodies[body] = None

    def remove(self, body: Body) -> None:
        """Stop holding a body, and let in those that wait for this."""
        if body.room is not self:
            return
        body.room = None
        del self._bodies[body]
        self._stop_waiting(body)
        if body.held_bytes:
            self._count(body, -body.held_bytes)
        if self._waiting:
            self._settle()

    async def take(self, body: Body, size_bytes: int) -> None:
        """Count this many more bytes for a body, once there is room for them.

        Raises TooSlow, RateLimited or Unavailable if the body had to make room or found none.
        """
        if not self._waiting and self._fits(body, size_bytes):
            self._count(body, size_bytes)
            return
        body.wanted_bytes = size_bytes
        body.granted = asyncio.Event()
        self._waiting[body] = None
        self._waiting_bytes += size_bytes
        self._settle()
        if body in self._waiting and self._waiting_bytes > self._most_waiting_bytes:
            body.refuse(self._no_room(body))
        try:
            await self._wait(body, body.granted)
        finally:
            self._stop_waiting(body)
            body.granted = None
        if body.refusal is not None:
            raise body.refusal

    async def _wait(self, body: Body, granted: asyncio.Event) -> None:
        clock = asyncio.get_running_loop().time
        deadline = clock() + MEMORY_TIMEOUT_S
        while not granted.is_set():
            try:
                async with asyncio.timeout(_LOOK_S):
                    await granted.wait()
            except TimeoutError:
                if granted.is_set():
                    return
                if clock() >= deadline:
                    body.refuse(self._no_room(body))
                elif clock() - self._looked_at >= _LOOK_S:
                    self._settle()

    def _settle(self) -> None:
        """Let in the bodies for which there is room or room can be made, in the order in which they came."""
        if not self._settling:
            self._settling = True
            try:
                self._let_all_in()
            finally:
                self._settling = False

    def _let_all_in(self) -> None:
        now = self._looked_at = asyncio.get_running_loop().time()
        stuck: set[str] = set()
        for body in list(self._waiting):
            if body in self._waiting and body.holder not in stuck and not self._let_in(body, now):
                if not self._is_beyond_share(body, body.wanted_bytes):
                    # Nobody overtakes a piece that waits for room in the total: otherwise a large piece would wait for
                    # ever.
                    return
                stuck.add(body.holder)

    def _let_in(self, body: Body, now: float) -> bool:
        """Count the waiting piece, if it fits or others can make room; say whether it no longer waits."""
        while body in self._waiting:
            if self._fits(body, body.wanted_bytes):
                self._stop_waiting(body)
                self._count(body, body.wanted_bytes)
                if body.granted is not None:
                    body.granted.set()
            elif not self._refuse_one(body, now):
                return False
        return True

    def _refuse_one(self, body: Body, now: float) -> bool:
        """Refuse one of the bodies that block a body, possibly itself; say whether there was one."""
        shared = self._is_beyond_share(body, body.wanted_bytes)
        among = [one for one in self._bodies if not shared or one.holder == body.holder]
        weight = self._weight(body)
        slow = [one for one in among if self._is_slow(one, now) and self._weight(one) >= weight]
        if slow:
            slowest = max(slow, key=lambda one: (self._weight(one), (now - one.began) / one.held_bytes))
            slowest.refuse(TooSlow("the body arrived slowly, and others needed its memory; send it again, faster"))
            return True
        if all(one in self._waiting for one in among if one.held_bytes):
            # All wait for each other.
            waiting = (one for one in among if one in self._waiting)
            youngest = max(waiting, key=lambda one: (self._weight(one), one.began))
            youngest.refuse(self._no_room(youngest))
            return True
        return False

    def _is_slow(self, body: Body, now: float) -> bool:
        """Whether it takes room and has been waiting for its client for a while."""
        return body.held_bytes > 0 and not body.is_whole and body not in self._waiting and now - body.began > SLOW_S

    def _weight(self, body: Body) -> tuple[int, int]:
        """How much its namespace holds here, and within that its token."""
        return self._by_holder.get(body.holder, 0), self._by_token.get(body.who.owner, 0)

    def _fits(self, body: Body, size_bytes: int) -> bool:
        return self._taken_bytes + size_bytes <= self._total_bytes and not self._is_beyond_share(body, size_bytes)

    def _is_beyond_share(self, body: Body, size_bytes: int) -> bool:
        return self._by_holder.get(body.holder, 0) + size_bytes > self._share_bytes

    def _no_room(self, body: Body) -> RegistryError:
        if self._is_beyond_share(body, body.wanted_bytes):
            return RateLimited(
                "other requests of this namespace use all the memory that a namespace may; send fewer bodies at once"
            )
        return Unavailable("the server is holding as many bodies as it can; send the same request again shortly")

    def _count(self, body: Body, size_bytes: int) -> None:
        body.held_bytes += size_bytes
        self._taken_bytes += size_bytes
        for held, key in ((self._by_holder, body.holder), (self._by_token, body.who.owner)):
            left = held.get(key, 0) + size_bytes
            if left:
                held[key] = left
            else:
                del held[key]

    def _stop_waiting(self, body: Body) -> None:
        if body in self._waiting:
            del self._waiting[body]
            self._waiting_bytes -= body.wanted_bytes


class Incoming:
    """All bodies of a process; their first `small_bytes` have a room of their own, so that small bodies don't wait for
    larger ones.
    """

    def __init__(self, *, small: BodyBudget, large: BodyBudget, small_bytes: int) -> None:
        self._small = small
        self._large = large
        self._small_bytes = small_bytes

    def begin(self, who: Principal) -> Body:
        """As `BodyBudget.begin`."""
        return self._small.begin(who)

    async def read(self, body: Body, receive: Receive, *, most_bytes: int, read_s: float = READ_S) -> bytes:
        """Read a body.

        Raises TooLarge, TooSlow, RateLimited, Unavailable, and ClientDisconnect if nobody is left to be answered.
        """
        try:
            async with asyncio.timeout(read_s) as body.time_limit:
                more = True
                while more:
                    message = await receive()
                    if body.refusal is not None:
                        raise body.refusal
                    if message["type"] != "http.request":
                        # Half a body is of no use.
                        raise ClientDisconnect
                    await self._take(body, message.get("body", b""), most_bytes)
                    more = message.get("more_body", False)
        except TimeoutError:
            if body.refusal is not None:
                raise body.refusal from None
            raise TooSlow(f"the body did not arrive within {read_s:g} s; send it faster") from None
        finally:
            body.time_limit = None
        body.is_whole = True
        found = bytes(body.data)
        body.data = bytearray()
        return found

    async def _take(self, body: Body, piece: bytes, most_bytes: int) -> None:
        size_bytes = len(body.data) + len(piece)
        if size_bytes > most_bytes:
            raise too_large(most_bytes)
        if size_bytes > self._small_bytes and body.room is self._small:
            self._small.remove(body)
            self._large.add(body)
        room = body.room
        if room is not None and piece:
            await room.take(body, size_bytes - body.held_bytes)
            body.data += piece


def too_large(most_bytes: int) -> TooLarge:
    """The error for a body that is longer than this."""
    return TooLarge(f"the body is larger than {most_bytes} bytes; send files to storage with an upload session")
