"""A closed loop of requests: some kept-alive connections to one server, one request outstanding on each.

It runs in one thread on uvloop and httptools, so that the server and not the loop is what is measured: a request
costs it some 10 µs. What is sent is a generator, so that one request may need the answer to the one before it.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

import httptools
import uvloop

#: One thing to be done on one connection: yields the bytes of each request, and is given the body of its answer.
Exchange = Generator[bytes, bytes, None]

_HOST = "127.0.0.1"
#: How long the last answers may take once nothing more is sent, and so how long a server may be silent.
_PATIENCE_S = 30.0
#: Connections that are opened in one burst are all taken by whichever of a server's processes wakes first.
_BETWEEN_CONNECTIONS_S = 0.003


class LoadError(RuntimeError):
    """A server refused a request or fell silent: what was timed is then not what was meant."""


@dataclass(frozen=True)
class Load:
    """What a loop found; latencies are of whole exchanges."""

    per_s: float
    p50_ms: float
    p99_ms: float
    done: int
    #: Answers that were not of success, and the first of them.
    failed: int
    complaint: str

    def valid(self) -> Load:
        """Return the figures as they are. Raises LoadError where any answer was not of success."""
        if self.failed:
            raise LoadError(f"{self.failed} of {self.failed + self.done} exchanges failed, first: {self.complaint}")
        return self


def get(path: str, *, token: str | None = None) -> bytes:
    """Return the bytes of a GET request."""
    return f"GET {path} HTTP/1.1\r\n{_headers(token)}\r\n".encode()


def post(path: str, value: Any, *, token: str | None = None) -> bytes:
    """Return the bytes of a POST request with JSON."""
    body = json.dumps(value).encode()
    length = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"POST {path} HTTP/1.1\r\n{_headers(token)}{length}\r\n".encode() + body


def _headers(token: str | None) -> str:
    return f"Host: {_HOST}\r\n" + ("" if token is None else f"Authorization: Bearer {token}\r\n")


def one(request: bytes) -> Exchange:
    """Return the exchange of one request, whose answer is not looked at."""
    yield request


def drive(port: int, work: Iterator[Exchange], *, connections: int, seconds: float = math.inf) -> Load:
    """Do the exchanges of `work` over so many connections until none is left, or none is begun after `seconds`.

    Raises LoadError where a server ends a connection, or answers nothing for half a minute.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_drive(port, work, connections, seconds))


async def _drive(port: int, work: Iterator[Exchange], connections: int, seconds: float) -> Load:
    loop = asyncio.get_running_loop()
    tally = _Tally()
    opened = []
    try:
        for _ in range(connections):
            opened.append((await loop.create_connection(lambda: _Connection(tally), _HOST, port))[1])
            await asyncio.sleep(_BETWEEN_CONNECTIONS_S)
        began = tally.answered = time.perf_counter()
        for connection in opened:
            connection.begin(work, began + seconds)
        await _until_done([connection.done for connection in opened], tally)
        # Measured to the last answer, since that is when the work was done; the watch above may notice it later.
        took_s = tally.answered - began
    finally:
        for connection in opened:
            connection.close()
    return tally.load(took_s)


async def _until_done(waited: list[asyncio.Future[None]], tally: _Tally) -> None:
    while waited:
        done, pending = await asyncio.wait(waited, timeout=1.0, return_when=asyncio.FIRST_EXCEPTION)
        for future in done:
            future.result()
        waited = list(pending)
        if waited and time.perf_counter() - tally.answered > _PATIENCE_S:
            raise LoadError(f"the server answered nothing for {_PATIENCE_S:.0f} s")


@dataclass
class _Tally:
    """What all connections have seen."""

    latencies_s: list[float] = field(default_factory=list)
    failed: int = 0
    complaint: str = ""
    #: When the last answer came.
    answered: float = 0.0

    def load(self, took_s: float) -> Load:
        ordered = sorted(self.latencies_s)

        def at(share: float) -> float:
            return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else math.nan

        return Load(len(ordered) / took_s, at(0.5), at(0.99), len(ordered), self.failed, self.complaint)


class _Connection(asyncio.Protocol):
    """One connection, and the exchange that is under way on it."""

    def __init__(self, tally: _Tally) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tally = tally
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []

    def begin(self, work: Iterator[Exchange], deadline: float) -> None:
        self._work = work
        self._deadline = deadline
        self._next()

    def close(self) -> None:
        # What ended this connection beside the first is not said twice.
        if not self.done.cancel() and not self.done.cancelled():
            self.done.exception()
        self._transport.abort()

    def _next(self) -> None:
        self._began = time.perf_counter()
        exchange = next(self._work, None) if self._began < self._deadline else None
        if exchange is None:
            self.done.set_result(None)
            return
        self._exchange = exchange
        self._transport.write(next(exchange))

    # What asyncio calls.

    def connection_made(self, transport: Any) -> None:
        # uvloop's transports are none of asyncio's classes.
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(LoadError(f"the server ended a connection ({error or 'no reason given'})"))

    # What httptools calls.

    def on_message_begin(self) -> None:
        self._body.clear()

    def on_body(self, part: bytes) -> None:
        self._body.append(part)

    def on_message_complete(self) -> None:
        self._tally.answered = time.perf_counter()
        body = b"".join(self._body)
        status = self._parser.get_status_code()
        if not 200 <= status < 300:
            self._tally.failed += 1
            self._tally.complaint = self._tally.complaint or f"{status} {body[:300]!r}"
            self._next()
            return
        try:
            request = self._exchange.send(body)
        except StopIteration:
            self._tally.latencies_s.append(self._tally.answered - self._began)
            self._next()
            return
        self._transport.write(request)
