"""Watchers of jobs over HTTP, all in one event loop: by long poll, by server-sent events, and by asking every so often.

Each has a connection of its own. What they see is noted with the moment at which they saw it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httptools
from load import LoadError, get

_HOST = "127.0.0.1"
#: Connections that are opened in one burst are all taken by whichever of a server's processes wakes first.
_BETWEEN_CONNECTIONS_S = 0.003
#: How long one long poll waits, as the SDK's do.
_WAIT_S = 10


@dataclass
class Sightings:
    """What the watchers saw."""

    #: (watcher, job, message) → when, by the monotonic clock.
    at: dict[tuple[int, str, str], float] = field(default_factory=dict)
    #: Requests that were answered to the end.
    answers: int = 0

    def note(self, watcher: int, job: str, event: dict[str, Any]) -> None:
        """Note the first sight of a line of a job's log."""
        if event["kind"] == "log":
            self.at.setdefault((watcher, job, event["message"]), time.monotonic())


class Connection(asyncio.Protocol):
    """A kept-alive connection with one request at a time."""

    def __init__(self) -> None:
        self._answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._on_part: Callable[[bytes], None] = self._body.append

    @classmethod
    async def open(cls, port: int) -> Connection:
        """Connect, a moment after whoever was before."""
        _, connection = await asyncio.get_running_loop().create_connection(cls, _HOST, port)
        await asyncio.sleep(_BETWEEN_CONNECTIONS_S)
        return connection

    async def ask(self, request: bytes, on_part: Callable[[bytes], None] | None = None) -> bytes:
        """Send a request and return the body of its answer, or hand on each part of it as it comes.

        Raises LoadError for an answer that is not of success, and where the server ends the connection.
        """
        self._body = []
        self._on_part = on_part or self._body.append
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """End the connection."""
        self._answer.cancel()
        self._transport.abort()

    # What asyncio calls.

    def connection_made(self, transport: Any) -> None:
        # uvloop's transports are none of asyncio's classes.
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._answer.done():
            self._answer.set_exception(LoadError(f"the server ended a connection ({error or 'no reason given'})"))

    # What httptools calls.

    def on_body(self, part: bytes) -> None:
        # What is refused is not what was asked for.
        take = self._on_part if 200 <= self._parser.get_status_code() < 300 else self._body.append
        take(part)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._answer.done():
            return
        if 200 <= status < 300:
            self._answer.set_result(b"".join(self._body))
        else:
            self._answer.set_exception(LoadError(f"{status} {b''.join(self._body)[:300]!r}"))


@dataclass(frozen=True)
class Watcher:
    """One who watches one job, until it is cancelled."""

    number: int
    job: str
    token: str
    sightings: Sightings

    async def long_poll(self, connection: Connection) -> None:
        """Ask, wait for the answer, ask again."""
        after = 0
        while True:
            after = await self._events(connection, after, wait_s=_WAIT_S)

    async def ask_every(self, connection: Connection, every_s: float) -> None:
        """Ask without waiting for anything, at times of their own."""
        after = 0
        due = asyncio.get_running_loop().time()
        while True:
            after = await self._events(connection, after, wait_s=0)
            due += every_s
            await asyncio.sleep(due - asyncio.get_running_loop().time())

    async def stream(self, connection: Connection) -> None:
        """Listen to server-sent events."""
        left = bytearray()

        def take(part: bytes) -> None:
            left.extend(part)
            while (end := left.find(b"\n\n")) >= 0:
                self._take_message(bytes(left[:end]))
                del left[: end + 2]

        await connection.ask(get(f"/api/v1/jobs/{self.job}/events/stream", token=self.token), take)
        raise LoadError("a stream ended before its job")

    async def _events(self, connection: Connection, after: int, *, wait_s: int) -> int:
        path = f"/api/v1/jobs/{self.job}/events?after={after}&wait_s={wait_s}"
        events = json.loads(await connection.ask(get(path, token=self.token)))
        self.sightings.answers += 1
        for event in events:
            self.sightings.note(self.number, self.job, event)
        return events[-1]["seq"] if events else after

    def _take_message(self, message: bytes) -> None:
        for line in message.splitlines():
            if line.startswith(b"data: "):
                event = json.loads(line.removeprefix(b"data: "))
                if "seq" in event:
                    self.sightings.note(self.number, self.job, event)
