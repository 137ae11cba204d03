"""HTTP/1.1 within limits: uvicorn's protocol over httptools, which itself has none for headers, connections and slow callers."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from sdk.formats.hosts import neighbourhood
from sdk.formats.http_limits import HEAD_S, MOST_HEAD_BYTES, MOST_HEADERS, MOST_PIPELINED


@dataclass(frozen=True)
class ConnectionLimits:
    """What one gateway accepts from the network."""

    #: The request line and all headers, in bytes; headers; the request line's URL, in bytes.
    head_bytes: int = MOST_HEAD_BYTES
    headers: int = MOST_HEADERS
    url_bytes: int = 8 * 1024
    #: How long a head may take to come, and how long a connection is kept without a request, in seconds.
    head_s: float = HEAD_S
    idle_s: float = 30.0
    #: How long 64 KiB of an answer, or its end, may wait to be fetched, in seconds.
    slow_s: float = 60.0
    #: Connections at once, and of them those from one address.
    connections: int = 1024
    of_one_address: int = 512
    #: Requests on one connection that wait for the one before them.
    pipelined: int = MOST_PIPELINED


@dataclass
class OpenConnections:
    """How many there are."""

    limits: ConnectionLimits = field(default_factory=ConnectionLimits)
    by_address: Counter[str] = field(default_factory=Counter)

    def enter(self, address: str) -> bool:
        """Count one, if there is room for it."""
        if self.by_address.total() >= self.limits.connections or self.by_address[address] >= self.limits.of_one_address:
            return False
        self.by_address[address] += 1
        return True

    def leave(self, address: str) -> None:
        """Count one less."""
        self.by_address[address] -= 1
        if self.by_address[address] <= 0:
            del self.by_address[address]


class _RefusedError(Exception):
    """Ends the parsing of a request that is refused."""


class GatewayHttp(HttpToolsProtocol):
    """One connection. What is refused here is closed with 400, and without an answer if one has begun."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        others: OpenConnections,
    ) -> None:
        super().__init__(config=config, server_state=server_state, app_state=app_state, _loop=_loop)
        self._others, self._limits = others, others.limits
        self._address: str | None = None
        self._head_bytes = self._headers = 0
        #: Whether a head is coming: then what comes counts towards its length.
        self._in_head = True
        self._head_timer: asyncio.TimerHandle | None = None
        self._slow_timer: asyncio.TimerHandle | None = None

    @classmethod
    def of(cls, connections: OpenConnections) -> Any:
        """Return what uvicorn makes its connections with."""
        return partial(cls, others=connections)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Let it in, if there is room for it."""
        super().connection_made(transport)
        address = neighbourhood(self.client[0]) if self.client else "unknown"
        if self._others.enter(address):
            self._address = address
            self._head_timer = self.loop.call_later(self._limits.head_s, self._head_is_late)
        else:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        if self._address is not None:
            self._others.leave(self._address)
            self._address = None
        for timer in (self._head_timer, self._slow_timer, self.timeout_keep_alive_task):
            if timer is not None:
                timer.cancel()
        self.pipeline.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what comes."""
        if self.transport.is_closing():
            return
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > self._limits.head_bytes + _LARGEST_READ:
                self._refuse()
                return
            if self._head_timer is None:
                self._head_timer = self.loop.call_later(self._limits.head_s, self._head_is_late)
        super().data_received(data)

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._in_head, self._headers, self._head_bytes = True, 0, 0
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self._limits.head_s, self._head_is_late)

    def on_url(self, url: bytes) -> None:
        """Take a piece of the URL."""
        super().on_url(url)
        if len(self.url) > self._limits.url_bytes:
            raise _RefusedError

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, also behind a body; those are counted alone."""
        self._headers += 1
        self._head_bytes += len(name) + len(value) + 4
        if self._headers > self._limits.headers or self._head_bytes > self._limits.head_bytes + _LARGEST_READ:
            raise _RefusedError
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Hand the request to the application."""
        self._in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        if len(self.pipeline) >= self._limits.pipelined or self.parser.get_http_version() not in ("1.0", "1.1"):
            raise _RefusedError
        # A URL with a host would count instead of the header `Host`, which is checked.
        if not self.url.startswith(b"/") or httptools.parse_url(self.url).path is None:
            raise _RefusedError
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """End an answer."""
        super().on_response_complete()
        self._in_head = True
        self._head_bytes = 0
        if self.transport.is_closing():
            # Otherwise the end of an answer that nobody fetches would keep it open.
            self._cut_later()

    def timeout_keep_alive_handler(self) -> None:
        """Close it, and cut it if its last answer isn't fetched."""
        super().timeout_keep_alive_handler()
        self._cut_later()

    def pause_writing(self) -> None:
        """Note that a caller fetches its answer slowly."""
        super().pause_writing()
        self._cut_later()

    def resume_writing(self) -> None:
        """Note that it has fetched most of it."""
        super().resume_writing()
        if self._slow_timer is not None and not self.transport.is_closing():
            self._slow_timer.cancel()
            self._slow_timer = None

    def send_400_response(self, msg: str) -> None:
        """Say that a request is none, unless another one's answer has begun."""
        self._refuse()

    def _refuse(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()
            return
        super().send_400_response(
            "this is not an HTTP/1.1 request within the limits; send a smaller one, whole and at once"
        )
        self._cut_later()

    def _head_is_late(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing() and (self.cycle is None or self.cycle.response_complete):
            self.transport.abort()

    def _cut_later(self) -> None:
        if self._slow_timer is None:
            self._slow_timer = self.loop.call_later(self._limits.slow_s, self.transport.abort)


#: What one read brings at most: the end of the request before may come with the beginning of the next.
_LARGEST_READ = 256 * 1024
