"""HTTP/1.1 within limits: uvicorn's protocol over httptools, which itself has none for headers, times and connections."""

from __future__ import annotations

import asyncio
import http
import json
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from registry.door.connections import (
    LONG_HEAD,
    LONG_URL,
    MALFORMED,
    PIPELINED,
    Connections,
    Refusal,
    Waits,
)
from registry.http.addresses import is_within, neighbourhood_of
from registry.http.ending import begin_to_end
from registry.http.paths import HEALTHZ, READYZ
from registry.http.refusals import REFUSALS

#: What may be requested on a connection beyond the limits: it must be known whether the process is alive, above all
#: when it is full.
_PROBES = (HEALTHZ.encode(), READYZ.encode())


class _RefusedError(Exception):
    """Ends the parsing of a request that is refused."""


class BoundedHttp(HttpToolsProtocol):
    """One connection. A refused request is answered, if that is still possible, and the connection is closed."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        others: Connections,
    ) -> None:
        super().__init__(config=config, server_state=server_state, app_state=app_state, _loop=_loop)
        self._limits = others.limits
        self._all = others
        #: Why every request here is refused, if the connection is one too many.
        self._barred: Refusal | None = None
        #: Why the request that is being parsed is refused.
        self._refusal: Refusal | None = None
        self._deaf = False
        #: The request that is being worked on; `cycle` is the one that came last, which may wait for it.
        self._running: RequestResponseCycle | None = None
        #: How much came since a head began, or since the last byte of a body: in between come sizes of chunks, and headers
        #: after it.
        self._framing_bytes = 0
        self._head_ended = False
        #: Whether a head ended in what came last, perhaps behind the end of the body before it.
        self._head_came = False
        self._headers = 0
        self._header_bytes = 0
        self.address = ""
        self.is_trusted = False
        self.waits: Waits = "head"
        self.since = self.loop.time()
        self.body_bytes = 0
        self.ahead_bytes = 0.0
        self.unsent_bytes = 0
        self.unsent_since = self.since
        self.closing_since: float | None = None

    @property
    def reads(self) -> bool:
        """Whether it is the client's turn."""
        return not self.flow.read_paused and not (self.cycle is not None and self.cycle.waiting_for_100_continue)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Let it in, if there is room for it."""
        super().connection_made(transport)
        self.address = neighbourhood_of(self.client)
        self.is_trusted = self.client is not None and is_within(self.client[0], self._limits.trusted)
        try:
            self._barred = self._all.enter(self)
        except ConnectionRefusedError:
            REFUSALS.note("too_many", self.address, "closed a connection from %s: there are too many", self.address)
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._all.leave(self)
        self.pipeline.clear()
        self._let_go()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what comes."""
        if self._deaf or self.transport.is_closing():
            return
        if self.waits == "idle":
            self._wait_for("head")
        headed, self._head_came = self.waits == "head", False
        if self.waits == "drain":
            self.body_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Other protocols are not supported: the request is answered as if it had asked for none, and is the last
            # one.
            self._deaf = True
            self.cycle.keep_alive = False
            if self.cycle.response_complete:
                self.transport.close()
        except httptools.HttpParserError:
            self.refuse(self._refusal or MALFORMED)
            return
        if headed and self.waits == "head":
            self._framing_bytes += len(data)
            if self._framing_bytes > self._limits.head_bytes:
                self.refuse(LONG_HEAD)
        elif self.waits == "body":
            self._framing_bytes += len(data)
            if self.cycle.response_complete:
                self._drain()
            elif self._head_came or self.cycle.body:
                # No more is read than the application has asked for: it asks again for each piece. It is not woken for
                # what is only framing.
                self._framing_bytes = 0
                self.flow.pause_reading()
            elif self._framing_bytes > self._limits.head_bytes:
                self.refuse(LONG_HEAD)
        elif self.waits == "drain" and self.body_bytes > self._limits.drain_bytes:
            self.transport.close()

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._wait_for("head")
        self._framing_bytes = self._header_bytes = self._headers = 0
        self._head_ended = False

    def on_url(self, url: bytes) -> None:
        """Take a piece of the URL."""
        super().on_url(url)
        if len(self.url) > self._limits.url_bytes:
            self._stop(LONG_URL)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; those after the body are counted and left out, because the application has read the headers
        already.
        """
        self._headers += 1
        self._header_bytes += len(name) + len(value) + 4
        if self._headers > self._limits.headers or self._header_bytes + len(self.url) > self._limits.head_bytes:
            self._stop(LONG_HEAD)
        if not self._head_ended:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Hand the request to the application."""
        self._head_ended = self._head_came = True
        if self._barred is not None and self.url not in _PROBES:
            self._stop(self._barred)
        if self.parser.get_http_version() not in ("1.0", "1.1"):
            self._stop(MALFORMED)
        if len(self.pipeline) >= self._limits.pipelined:
            self._stop(PIPELINED)
        if not self.url.startswith(b"/"):
            self._take_host_of_target()
        idle = self.cycle is None or self.cycle.response_complete
        super().on_headers_complete()
        if idle:
            self._running = self.cycle
        self.body_bytes, self.ahead_bytes = 0, self._limits.least_bytes_per_s * self._limits.grace_s
        self._wait_for("body")

    def _take_host_of_target(self) -> None:
        """Let the host in a request's line count instead of the header, as RFC 9112 says for `GET http://host/path`."""
        target = httptools.parse_url(self.url)
        if target.host is not None:
            port = b"" if target.port is None else b":%d" % target.port
            host = b"[%b]" % target.host if b":" in target.host else target.host
            self.headers[:] = [(name, value) for name, value in self.headers if name != b"host"]
            self.headers.append((b"host", host + port))

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        if self.waits != "drain":
            self.body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request."""
        self._wait_for("answer")
        super().on_message_complete()
        if self.cycle.response_complete:
            self._wait_for("idle")

    def on_response_complete(self) -> None:
        """End an answer."""
        if self.cycle.response_complete:
            # The cycle lives until the next one, but what was sent and not read needn't.
            self.cycle.body = bytearray()
        if self.pipeline:
            self._running = self.pipeline[-1][0]
        super().on_response_complete()
        if self.waits == "answer" and not self.pipeline and self.cycle.response_complete:
            self._wait_for("idle")
        elif self.waits == "body" and self.cycle.response_complete:
            self._drain()

    def shutdown(self) -> None:
        """Let what is running come to its end: the server takes no more requests."""
        begin_to_end()
        super().shutdown()

    def timeout_keep_alive_handler(self) -> None:
        """Leave it to the check of all connections to close idle ones."""

    def pause_writing(self) -> None:
        """Record that a client fetches its answer slowly."""
        super().pause_writing()
        self._all.slow.add(self)
        self._all.relieve()

    def resume_writing(self) -> None:
        """Record that it has fetched most of it."""
        self._all.slow.discard(self)
        super().resume_writing()

    def refuse(self, refusal: Refusal) -> None:
        """Answer with this if no other answer was begun, and close."""
        if self.transport.is_closing():
            return
        REFUSALS.note(refusal.why, self.address, "refused a request from %s: %s", self.address, refusal.message)
        self._deaf = True
        running = self._running
        if (
            running is not None
            and not running.response_complete
            and (running.response_started or running is not self.cycle)
        ):
            # Nothing can be sent before, or in the middle of, the answer to another request.
            self.transport.abort()
            return
        self._let_go()
        self.transport.write(_written(refusal))
        self.transport.close()

    def _let_go(self) -> None:
        """Let the application write nothing more."""
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()

    def _stop(self, refusal: Refusal) -> None:
        self._refusal = refusal
        raise _RefusedError

    def _wait_for(self, what: Waits) -> None:
        self.waits = what
        self.since = self.loop.time()

    def _drain(self) -> None:
        """Read the rest of a body that nobody wants, so that the client gets to its answer; but not for ever."""
        self._wait_for("drain")
        self.body_bytes = 0
        self.flow.resume_reading()


def _written(refusal: Refusal) -> bytes:
    error = {"code": refusal.code.value, "message": refusal.message, "param": None}
    body = json.dumps({"error": error}).encode()
    phrase = http.HTTPStatus(refusal.status).phrase
    retry = "retry-after: 1\r\n" if refusal.status in (429, 503) else ""
    head = (
        f"HTTP/1.1 {refusal.status} {phrase}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        f"{retry}connection: close\r\n\r\n"
    )
    return head.encode() + body
