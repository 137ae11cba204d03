"""A proxy between clients and a store that spoils requests by a seeded plan, and ends every one of them.

    with FaultProxy() as proxy:
        proxy.upstream = ("127.0.0.1", 8333)
        proxy.plan = Plan(17)

Heads pass as they came, `Host` included: SigV4 signs it, so URLs are presigned for the proxy's own address.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from faults.plans import Fault, Head, Plan, Strike

_CHUNK_BYTES = 16 * 1024
_EXPIRED = b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
_SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
_CHANGED = b"<Error><Code>PreconditionFailed</Code></Error>"


class _Cut(Exception):  # noqa: N818 - it reads as what happened
    """The plan wants the connection to end here."""


@dataclass
class _Passed:
    """What the test may look at or wait for."""

    requests: list[Head] = field(default_factory=list)
    body_bytes: int = 0


class FaultProxy:
    """A listener on loopback in a thread of its own. One upstream connection per request, so that no fault outlives it."""

    def __init__(self) -> None:
        self.plan: Plan | None = None
        self.upstream: tuple[str, int] = ("127.0.0.1", 0)
        #: Called in a thread before a request is forwarded.
        self.before: Callable[[Head], object] | None = None
        #: Called in the proxy's thread with the bytes of bodies that passed since `forget`.
        self.on_bytes: Callable[[int], object] | None = None
        #: Seconds between two chunks of 16 KiB, for tests that want to be in the midst of it.
        self.pace_s = 0.0
        self._passed = _Passed()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="fault-proxy")
        self._ready = threading.Event()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, port = self._listener.getsockname()
        return host, port

    @property
    def url(self) -> str:
        """What a store's public endpoint is to be."""
        return "http://{}:{}".format(*self.address)

    @property
    def requests(self) -> list[Head]:
        """The heads of all requests since `forget`."""
        return list(self._passed.requests)

    def forget(self) -> None:
        """Start counting anew."""
        self._passed = _Passed()

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()
        self._listener.close()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._accept, sock=self._listener.dup())
        self._ready.set()
        await self._ended.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (head := await _read_head(reader)) is not None:
                if not await self._answer(head, reader, writer):
                    break
        except _Cut:
            _reset(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            # The client hung up, or the store did: the other side learns of it by the end of its connection.
            pass
        finally:
            await _close(writer)

    async def _answer(self, head: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Carry one request; return whether the client's connection can take another."""
        self._passed.requests.append(head)
        plan = self.plan
        strike = None if plan is None else plan.draw(head)
        if plan is not None and strike is not None:
            plan.dealt.append(f"{head.method} {head.headers.get('range', '')} {strike}")
        if self.before is not None:
            await asyncio.to_thread(self.before, head)
        if strike is not None:
            await asyncio.sleep(strike.wait_s)
            if strike.kind in {Fault.UNAVAILABLE, Fault.EXPIRED}:
                return await _refuse(strike, head, reader, writer)
        other = None if plan is None else _turn(plan, strike, head)
        if other is not None and head.headers.get("if-match", other) != other:
            return await _say(writer, "412 Precondition Failed", _CHANGED)
        up_reader, up_writer = await asyncio.open_connection(*self.upstream)
        try:
            return await self._carry(strike, other, head, (reader, writer), (up_reader, up_writer))
        finally:
            await _close(up_writer)

    async def _carry(
        self,
        strike: Strike | None,
        other: str | None,
        head: Head,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        store: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> bool:
        store[1].write(head.raw)
        # The store may answer before it has everything, where it refuses a request by its head.
        answering = asyncio.create_task(_read_head(store[0]))
        try:
            await self._send_on(strike, head, client[0], store[1])
            answer = await answering
        finally:
            answering.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError, asyncio.IncompleteReadError):
                await answering
        if answer is None:
            raise _Cut
        return await self._send_back(strike, other, head, answer, store[0], client[1])

    async def _send_on(
        self, strike: Strike | None, head: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        length = head.length_bytes or 0
        struck = None if strike is None else int(strike.at * length)
        sent, gone = 0, False
        async for chunk in _body_of(head, reader, length if "content-length" in head.headers else 0):
            if strike is not None and struck is not None and sent <= struck < sent + len(chunk):
                if strike.kind is Fault.CUT_REQUEST:
                    writer.write(chunk[: struck - sent])
                    with contextlib.suppress(ConnectionError):
                        await writer.drain()
                    raise _Cut
                if strike.kind is Fault.CORRUPT_REQUEST:
                    chunk = _flipped(chunk, struck - sent, strike.variant)
            sent += len(chunk)
            if not gone:
                try:
                    writer.write(chunk)
                    await writer.drain()
                except ConnectionError:
                    # It has answered already and reads no more; the client is heard out all the same.
                    gone = True
            await self._count(len(chunk))

    async def _send_back(
        self,
        strike: Strike | None,
        other: str | None,
        head: Head,
        answer: Head,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        empty = head.method == "HEAD" or answer.status in {204, 304}
        length = 0 if empty else answer.length_bytes
        kind = None if strike is None else strike.kind
        if kind is Fault.SWALLOWED:
            async for _ in _body_of(answer, reader, length):
                pass
            raise _Cut
        good = answer.status in {200, 206} and length is not None and length > 0 and head.method == "GET"
        struck = int(strike.at * length) if strike is not None and good and length else None
        raw = answer.raw
        if other is not None and good:
            raw = answer.replacing(etag=other)
        if kind is Fault.TRUNCATED and struck is not None:
            raw = answer.replacing(content_length=str(struck), connection="close")
        writer.write(raw)
        sent = 0
        async for chunk in _body_of(answer, reader, length):
            if other is not None and good:
                chunk = bytes(byte ^ 0x11 for byte in chunk)
            if strike is not None and struck is not None and sent <= struck < sent + len(chunk):
                if kind in {Fault.CUT_RESPONSE, Fault.TRUNCATED}:
                    writer.write(chunk[: struck - sent])
                    await writer.drain()
                    if kind is Fault.CUT_RESPONSE and strike.variant % 2:
                        raise _Cut
                    # An orderly end, in the midst of the body or where the changed head says it is.
                    return False
                if kind is Fault.CORRUPT_RESPONSE:
                    chunk = _flipped(chunk, struck - sent, strike.variant)
            sent += len(chunk)
            writer.write(chunk)
            await writer.drain()
            await self._count(len(chunk))
        await writer.drain()
        return length is not None and answer.headers.get("connection", "").lower() != "close"

    async def _count(self, count: int) -> None:
        self._passed.body_bytes += count
        if self.on_bytes is not None:
            self.on_bytes(self._passed.body_bytes)
        if self.pace_s:
            await asyncio.sleep(self.pace_s)


def _turn(plan: Plan, strike: Strike | None, head: Head) -> str | None:
    """Return the ETag of what lies there instead of the object now, or None."""
    if strike is not None and strike.kind is Fault.REPLACED:
        plan.replaced[head.path] = 1 + strike.variant % 4
    left = plan.replaced.get(head.path, 0)
    if head.method != "GET" or left == 0:
        return None
    plan.replaced[head.path] = left - 1
    return '"another object"'


async def _refuse(strike: Strike, head: Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    # A store may hear the whole body first, or hang up over it.
    heard = strike.variant % 2 == 0 or not head.length_bytes
    if heard:
        async for _ in _body_of(head, reader, head.length_bytes or 0):
            pass
    if strike.kind is Fault.EXPIRED:
        await _say(writer, "403 Forbidden", _EXPIRED, close=not heard)
    else:
        await _say(writer, "503 Slow Down", _SLOW_DOWN, close=not heard)
    return heard


async def _say(writer: asyncio.StreamWriter, status: str, body: bytes, *, close: bool = False) -> bool:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
    writer.write(head.encode() + (b"Connection: close\r\n" if close else b"") + b"\r\n" + body)
    await writer.drain()
    return not close


async def _read_head(reader: asyncio.StreamReader) -> Head | None:
    """Read the first lines; None where the connection ended before them. What only announces an answer is passed over."""
    while True:
        try:
            raw = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise
            return None
        first, *lines = raw[:-4].decode("latin-1").split("\r\n")
        one, two, three = [*first.split(" ", 2), "", ""][:3]
        pairs = [line.partition(":") for line in lines]
        head = Head(raw, (one, two, three), {name.strip().lower(): value.strip() for name, _, value in pairs})
        if not (one.startswith("HTTP/") and head.status < 200):
            return head


async def _body_of(head: Head, reader: asyncio.StreamReader, length: int | None) -> AsyncIterator[bytes]:
    """Yield a body as it travels: by its length, in chunks with their frames, or to the end of the connection."""
    if "chunked" in head.headers.get("transfer-encoding", "").lower():
        while True:
            line = await reader.readline()
            size = int(line.split(b";")[0], 16)
            yield line + await reader.readexactly(size + 2)
            if size == 0:
                return
    left = length
    while left is None or left > 0:
        chunk = await reader.read(_CHUNK_BYTES if left is None else min(left, _CHUNK_BYTES))
        if not chunk:
            if left is None:
                return
            raise asyncio.IncompleteReadError(b"", left)
        left = None if left is None else left - len(chunk)
        yield chunk


def _flipped(chunk: bytes, at: int, bit: int) -> bytes:
    return chunk[:at] + bytes([chunk[at] ^ (1 << bit)]) + chunk[at + 1 :]


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection as a crash does: by a reset, whatever the kernel still holds."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
