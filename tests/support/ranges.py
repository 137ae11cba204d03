"""A small HTTP server that serves objects in ranges, as S3 does, and fails when a test says so."""

from __future__ import annotations

import hashlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache

from support.answering import Handler, answering

#: Called with each request before it is answered; its result says how to answer.
Script = Callable[["Request"], "Fault | None"]
_RANGE = re.compile(r"bytes=([0-9]+)-([0-9]*)")


@dataclass(frozen=True)
class Request:
    """One GET: its number, and what it asked for."""

    number: int
    path: str
    query: str
    begin: int
    #: None: to the end.
    end: int | None
    if_match: str | None


@dataclass(frozen=True)
class Fault:
    """What goes wrong."""

    status: int | None = None
    #: The connection is cut after this many bytes of the body.
    cut_after: int | None = None
    #: The whole body is sent, with 200, whatever range was asked for.
    ignores_ranges: bool = False
    #: The byte at this position of the object is different.
    wrong_at: int | None = None
    #: Seconds that pass before each piece.
    slow_s: float = 0.0
    #: The object is a different one from this request on.
    becomes: bytes | None = None


@dataclass
class RangeServer:
    """The server: objects by path, and what was asked for."""

    objects: dict[str, bytes] = field(default_factory=dict)
    script: Script = lambda _request: None
    requests: list[Request] = field(default_factory=list)
    #: Bytes of bodies that were sent, counted before a client can have them.
    sent_bytes: int = 0
    #: Requests that are being answered.
    answering: int = 0
    connections: int = 0
    port: int = 0

    def url(self, name: str) -> str:
        """The URL of an object, with a query that must not be shown."""
        return f"http://127.0.0.1:{self.port}/{name}?X-Amz-Signature=s3cret"


@cache
def _etag(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


@contextmanager
def range_server(**objects: bytes) -> Iterator[RangeServer]:
    """Run a server in threads of this process."""
    served = RangeServer(dict(objects))
    lock = threading.Lock()

    class Ranges(Handler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with lock:
                served.connections += 1

        def do_GET(self) -> None:
            name, _, query = self.path.strip("/").partition("?")
            found = _RANGE.fullmatch(self.headers.get("Range", ""))
            with lock:
                request = Request(
                    len(served.requests) + 1,
                    name,
                    query,
                    int(found[1]) if found else 0,
                    int(found[2]) + 1 if found and found[2] else None,
                    self.headers.get("If-Match"),
                )
                served.requests.append(request)
                served.answering += 1
            try:
                fault = served.script(request) or Fault()
                if fault.becomes is not None:
                    served.objects[name] = fault.becomes
                self._answer(request, fault, served.objects.get(name), ranged=found is not None)
            finally:
                with lock:
                    served.answering -= 1

        def _answer(self, request: Request, fault: Fault, content: bytes | None, *, ranged: bool) -> None:
            if fault.status is not None or content is None:
                self.answer(fault.status or 404)
                return
            etag = _etag(content)
            if request.if_match not in (None, etag):
                self.answer(412)
                return
            begin, end = 0, len(content)
            if ranged and not fault.ignores_ranges:
                if request.begin >= len(content):
                    self.answer(416)
                    return
                begin, end = request.begin, min(request.end or len(content), len(content))
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(content)}")
            else:
                self.send_response(200)
            self.send_header("ETag", etag)
            self.send_header("Content-Length", str(end - begin))
            self.end_headers()
            if fault.wrong_at is not None:
                changed = bytearray(content)
                changed[fault.wrong_at] ^= 1
                content = bytes(changed)
            stop = end if fault.cut_after is None else min(end, begin + fault.cut_after)
            self._send(memoryview(content)[begin:stop], fault.slow_s)
            if stop < end:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)

        def _send(self, body: memoryview, slow_s: float) -> None:
            for start in range(0, len(body), 64 * 1024):
                if slow_s:
                    time.sleep(slow_s)
                piece = body[start : start + 64 * 1024]
                with lock:
                    served.sent_bytes += len(piece)
                try:
                    self.wfile.write(piece)
                except OSError:
                    # The client has what it wanted of this answer.
                    self.close_connection = True
                    return

    with answering(Ranges) as server:
        served.port = server.server_port
        yield served
