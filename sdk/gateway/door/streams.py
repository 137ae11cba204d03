"""An engine's answer on its way to the caller: nothing of it is parsed, and at most one line is held back.

>>> lines = RenamedLines("review@production")
>>> lines.feed(b'data: {"model": "review@v3", "choi'), lines.feed(b'ces": []}\\n\\n')
(b'', b'data: {"model":"review@production", "choices": []}\\n\\n')
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

from starlette.types import Message, Receive, Send

#: A key of a JSON object, which no text inside of one looks like: there, each quotation mark has a backslash before it.
_MODEL = re.compile(rb'"model":\s*"(?:[^"\\]|\\.)*+"')
#: The longest line of a stream and the longest whole answer, in bytes: 20 likely tokens with each of some thousands.
MOST_LINE_BYTES, MOST_ANSWER_BYTES = 4 * 1024 * 1024, 64 * 1024 * 1024


class BrokenAnswerError(Exception):
    """An engine's answer that is longer than any, or ends too early."""


def renamed(answer: bytes, model: str) -> bytes:
    """Return an answer, or whole lines of one, in which the model has the name that it was asked by."""
    put = b'"model":' + json.dumps(model).encode()
    return _MODEL.sub(lambda _: put, answer)


class LineBuffer:
    """Pieces of a stream, cut at ends of lines."""

    def __init__(self) -> None:
        self._held: list[bytes] = []
        self._held_bytes = 0

    def feed(self, piece: bytes) -> bytes:
        """Return the lines that are whole now. Raises BrokenAnswerError."""
        end = piece.rfind(b"\n") + 1
        if not end:
            self._hold(piece)
            return b""
        lines = b"".join([*self._held, piece[:end]]) if self._held else piece[:end]
        self._held, self._held_bytes = [], 0
        if end < len(piece):
            self._hold(piece[end:])
        return lines

    def rest(self) -> bytes:
        """Return a last line without an end."""
        return b"".join(self._held)

    def _hold(self, piece: bytes) -> None:
        self._held.append(piece)
        self._held_bytes += len(piece)
        if self._held_bytes > MOST_LINE_BYTES:
            raise BrokenAnswerError("a line of it is too long")


class RenamedLines:
    """The lines of a stream, each as soon as it is whole, in which the model has the name that it was asked by."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._lines = LineBuffer()

    def feed(self, piece: bytes) -> bytes:
        """Return what is whole now. Raises BrokenAnswerError."""
        return renamed(self._lines.feed(piece), self._model)

    def rest(self) -> bytes:
        """Return a last line without an end."""
        return renamed(self._lines.rest(), self._model)


async def whole(pieces: AsyncIterator[bytes]) -> bytes:
    """Return an answer as one. Raises BrokenAnswerError."""
    found, size_bytes = [], 0
    async for piece in pieces:
        found.append(piece)
        size_bytes += len(piece)
        if size_bytes > MOST_ANSWER_BYTES:
            raise BrokenAnswerError("it is too long")
    return b"".join(found)


def event(document: object) -> bytes:
    """Return an event of a stream.

    >>> event({"error": None})
    b'data: {"error":null}\\n\\n'
    """
    return b"data: " + json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


class Requester:
    """Whoever gets the answer. One that fetches nothing for long is cut off by the connection, which then is one that has hung up."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self.has_begun = False
        self._body_ended = False

    async def body(self, most_bytes: int, within_s: float) -> bytes:
        """Return the request's body. Raises OverflowError, TimeoutError, and ConnectionError for a caller who hung up."""
        parts, size_bytes = [], 0
        async with asyncio.timeout(within_s):
            while not self._body_ended:
                parts.append(await self._piece())
                size_bytes += len(parts[-1])
                if size_bytes > most_bytes:
                    raise OverflowError
        return b"".join(parts)

    async def read_rest(self, most_bytes: int, within_s: float) -> bool:
        """Read what is left of the body of a request that is refused, so that its sender gets to the answer; return whether it has
        ended.
        """
        with suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(within_s):
                while not self._body_ended and most_bytes > 0:
                    most_bytes -= len(await self._piece())
        return self._body_ended

    async def _piece(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError
        self._body_ended = not message.get("more_body", False)
        piece: bytes = message.get("body", b"")
        return piece

    async def send(self, message: Message) -> None:
        """Send a part of the answer, once the earlier ones are fetched."""
        self.has_begun = True
        await self._send(message)

    def when_gone(self, call: Callable[[], object]) -> asyncio.Task[None]:
        """Call this once the caller has hung up; the task that is returned is to be cancelled at the end."""

        async def watch() -> None:
            while (await self._receive())["type"] != "http.disconnect":
                pass
            call()

        return asyncio.create_task(watch())


def when_set(happened: asyncio.Event, call: Callable[[], object]) -> asyncio.Task[None]:
    """Call this once an event is set; the task that is returned is to be cancelled at the end."""

    async def watch() -> None:
        await happened.wait()
        call()

    return asyncio.create_task(watch())
