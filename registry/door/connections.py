"""The connections of one server process: how many there may be, and which of them have kept the server waiting too
long.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

from registry.door.limits import ServerLimits
from registry.http.refusals import REFUSALS, RefusalKind
from sdk.formats.error_codes import ErrorCode

#: How often connections are checked, in seconds.
LOOK_S = 1.0
#: How long the end of an answer may take to be fetched before its connection is closed, and then until it is cut, in seconds.
FETCHING_S = CLOSING_S = 5.0


class Refusal(NamedTuple):
    """What a client is told before its connection is closed."""

    status: int
    code: ErrorCode
    message: str
    why: RefusalKind


MALFORMED = Refusal(400, ErrorCode.INVALID, "this is not an HTTP/1.1 request; send one", "malformed")
PIPELINED = Refusal(
    429,
    ErrorCode.RATE_LIMITED,
    "too many requests are waiting on this connection; wait for answers before sending more",
    "too_many",
)
FULL = Refusal(503, ErrorCode.UNAVAILABLE, "the server has no connection left; try again shortly", "too_many")
CROWDED = Refusal(
    429,
    ErrorCode.RATE_LIMITED,
    "this address has reached its limit of connections (REGISTRY_MAX_CONNECTIONS_PER_ADDRESS); close some, then try again",
    "too_many",
)
LONG_HEAD = Refusal(431, ErrorCode.TOO_LARGE, "the request's headers are too long or too many; send fewer", "too_large")
LONG_URL = Refusal(414, ErrorCode.TOO_LARGE, "the request's URL is too long; shorten it", "too_large")
SLOW_HEAD = Refusal(
    408, ErrorCode.TIMEOUT, "the request's headers did not arrive in time; send them at once", "too_slow"
)
SLOW_BODY = Refusal(408, ErrorCode.TIMEOUT, "the body arrives more slowly than the server allows", "too_slow")

#: What a connection waits for: that the client sends a head (at its beginning, and once a request has begun), or a
#: body, or the rest of one although its request has been answered; nothing while the server works; or anything at all
#: while there is no request.
Waits = Literal["head", "body", "drain", "answer", "idle"]


class Connection(Protocol):
    """What is checked about a connection."""

    waits: Waits
    #: When it began to wait for that, by the loop's clock.
    since: float
    #: The address that limits are for, and whether it is a proxy's, which has none.
    address: str
    is_trusted: bool
    transport: asyncio.Transport
    #: How much of the present body has come since the last check.
    body_bytes: int
    #: How far the body is ahead of the slowest one that is allowed.
    ahead_bytes: float
    #: How much of its answers had not been fetched at the last check, and since when it has not become less.
    unsent_bytes: int
    unsent_since: float
    closing_since: float | None

    @property
    def reads(self) -> bool:
        """Whether it is the client's turn: the server accepts what comes, and has said so."""

    def refuse(self, refusal: Refusal) -> None:
        """Answer with this, and close it."""


class Connections:
    """All connections of a server, and the check every second that enforces all time limits."""

    def __init__(
        self, limits: ServerLimits, loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.get_running_loop
    ) -> None:
        self.limits = limits
        self._loop = loop
        self._all: set[Connection] = set()
        #: Connections whose clients fetch answers more slowly than they are written.
        self.slow: set[Connection] = set()
        self._by_address: Counter[str] = Counter()
        #: Those beyond their address's limit, the oldest first: they are told so, or ask whether the process lives.
        self._beyond: dict[Connection, None] = {}
        self._looking = False

    def enter(self, connection: Connection) -> Refusal | None:
        """Count a connection; return why its requests are refused if it is one too many.

        However many an address opens, the last one can still ask for a probe: those that were refused before it go first.
        Raises ConnectionRefusedError if there isn't even room to say that.
        """
        limits, address = self.limits, connection.address
        refusal = None
        if self._by_address[address] >= limits.connections_per_address and not connection.is_trusted:
            refusal = CROWDED
            beyond = [one for one in self._beyond if one.address == address]
            if len(beyond) >= min(limits.reserve, limits.connections_per_address):
                # The oldest that is not being answered, if there is one.
                unanswered = (
                    one for one in beyond if one.waits not in ("body", "answer") or one.transport.is_closing()
                )
                oldest = next(unanswered, beyond[0])
                self._close(oldest, "closed a connection from %s: there are too many")
            self._beyond[connection] = None
        elif len(self._all) >= limits.connections and not self._make_room():
            refusal = FULL
        if len(self._all) >= limits.connections + limits.reserve and not self._make_room():
            self._beyond.pop(connection, None)
            raise ConnectionRefusedError
        self._all.add(connection)
        self._by_address[address] += 1
        if not self._looking:
            self._looking = True
            self._loop().call_later(LOOK_S, self._look)
        return refusal

    def leave(self, connection: Connection) -> None:
        """Forget a connection that is gone."""
        self.slow.discard(connection)
        self._beyond.pop(connection, None)
        if connection in self._all:
            self._all.remove(connection)
            self._by_address[connection.address] -= 1
            if not self._by_address[connection.address]:
                del self._by_address[connection.address]

    def relieve(self) -> None:
        """Give up answers that nobody fetches if all of them together take more than they may."""
        waiting = [(one, one.transport.get_write_buffer_size()) for one in self.slow]
        excess = sum(size for _, size in waiting) - self.limits.unsent_bytes
        if excess <= 0:
            return
        now = self._loop().time()
        still = [(one, size) for one, size in waiting if size and now - one.unsent_since >= LOOK_S]
        for one, size in sorted(still, key=lambda each: each[0].unsent_since):
            if excess <= 0:
                return
            excess -= size
            self._give_up(one)

    def _make_room(self) -> bool:
        """Close the connection that has been idle for longest; say whether there was one."""
        waiting = [one for one in self._all if one.waits in ("head", "idle") and not one.transport.is_closing()]
        if not waiting:
            return False
        oldest = min(waiting, key=lambda one: one.since)
        self._close(oldest, "all connections are taken: closed an idle one from %s")
        return True

    def _close(self, connection: Connection, message: str) -> None:
        REFUSALS.note("too_many", connection.address, message, connection.address)
        connection.transport.abort()
        self.leave(connection)

    def _look(self) -> None:
        now = self._loop().time()
        for connection in list(self._all):
            self._look_at(connection, now)
        self._looking = bool(self._all)
        if self._looking:
            self._loop().call_later(LOOK_S, self._look)

    def _look_at(self, connection: Connection, now: float) -> None:
        limits = self.limits
        if connection.transport.is_closing():
            connection.closing_since = connection.closing_since or now
            if now - connection.closing_since >= CLOSING_S:
                connection.transport.abort()
            return
        unsent_bytes = connection.transport.get_write_buffer_size()
        # More is only written once most of the earlier data is gone, so more means progress.
        if not unsent_bytes or unsent_bytes != connection.unsent_bytes:
            connection.unsent_since = now
        connection.unsent_bytes = unsent_bytes
        if now - connection.unsent_since > limits.still_s:
            self._give_up(connection)
        elif connection.waits == "head":
            if now - connection.since > limits.head_s:
                connection.refuse(SLOW_HEAD)
        elif connection.waits == "idle":
            if now - connection.since > (FETCHING_S if unsent_bytes else limits.idle_s):
                connection.transport.close()
        elif connection.waits == "drain":
            if now - connection.since > limits.drain_s:
                connection.transport.close()
        elif connection.waits == "body" and connection.reads:
            ahead_bytes = connection.ahead_bytes + connection.body_bytes - limits.least_bytes_per_s * LOOK_S
            connection.ahead_bytes = min(ahead_bytes, limits.least_bytes_per_s * limits.still_s)
            connection.body_bytes = 0
            if ahead_bytes < 0:
                connection.refuse(SLOW_BODY)

    def _give_up(self, connection: Connection) -> None:
        REFUSALS.note("not_taken", connection.address, "gave up an answer: %s does not read it", connection.address)
        connection.transport.abort()
