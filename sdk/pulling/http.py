"""GETs over HTTP for programs that must start fast: standard library only, with kept connections that threads share.

httpx takes longer to import than a pull of a cached version may take, and copies bytes more often. If the environment
names a proxy, httpx is used anyway, since it supports every kind. No error of this module contains a URL: a presigned
one is a credential.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from sdk.allowed_locations import Reach

if TYPE_CHECKING:
    import ssl

    import httpx

CONNECT_S = 10.0
READ_S = 60.0
#: Idle connections, for each server.
_KEPT = 8
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")


class BrokenConnection(Exception):  # noqa: N818 - it is turned into an error of ours by whoever knows what was being done
    """A connection could not be made, or broke."""


class Response(Protocol):
    """What a server answers: a status, headers, and a body that is read piece by piece."""

    status: int

    def header(self, name: str) -> str | None:
        """Return a header's value."""

    def read(self, most_bytes: int) -> bytes:
        """Return what has arrived of the body, at most `most_bytes`; b"" at its end. Raises BrokenConnection."""

    def close(self) -> None:
        """Release the body; the connection is kept if it was read to its end."""

    def abort(self) -> None:
        """Wake up the reader, from another thread."""


class HttpClient:
    """Connections to the servers that GETs go to."""

    def __init__(self, reach: Reach | None = None) -> None:
        #: Where GETs may go.
        self.reach = reach or Reach()
        self._idle: dict[tuple[str, str, int | None], list[HTTPConnection]] = {}
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._tls: ssl.SSLContext | None = None
        self._httpx: httpx.Client | None = None
        self._by_httpx = proxied()

    def get(self, url: str, headers: Mapping[str, str], *, read_s: float = READ_S) -> Response:
        """Send a GET and return its answer, of whatever status; no redirect is followed.

        Raises BrokenConnection and, before anything is sent, what `Reach.require` raises.
        """
        self.reach.require(url)
        if self._pid != os.getpid():
            # After a fork the connections are the parent's.
            self._idle, self._httpx, self._pid = {}, None, os.getpid()
        if self._by_httpx:
            return self._get_by_httpx(url, headers, read_s)
        try:
            parts = urlsplit(url)
            key = (parts.scheme, parts.hostname or "", parts.port)
            target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
            # A compressed body would not be the bytes that were asked for.
            sent = {"Accept-Encoding": "identity", **headers}
            while True:
                connection, reused = self._take(key)
                try:
                    return self._ask(key, connection, target, sent, read_s)
                except (OSError, HTTPException):
                    connection.close()
                    # A server may close an idle connection at any time, which is not a failure of this request.
                    if not reused:
                        raise
        except (OSError, HTTPException, ValueError) as error:
            raise BrokenConnection(type(error).__name__) from None

    def _ask(
        self,
        key: tuple[str, str, int | None],
        connection: HTTPConnection,
        target: str,
        headers: Mapping[str, str],
        read_s: float,
    ) -> _Response:
        if connection.sock is None:
            connection.connect()
        # Kept here, since a connection gives up its socket with its last answer.
        held: socket.socket = connection.sock
        held.settimeout(read_s)
        connection.request("GET", target, headers=dict(headers))
        return _Response(self, key, connection, held, connection.getresponse())

    def _take(self, key: tuple[str, str, int | None]) -> tuple[HTTPConnection, bool]:
        with self._lock:
            waiting = self._idle.get(key)
            if waiting:
                return waiting.pop(), True
        scheme, host, port = key
        if scheme == "http":
            return HTTPConnection(host, port, timeout=CONNECT_S), False
        if scheme != "https":
            raise ValueError("neither http nor https")
        return HTTPSConnection(host, port, timeout=CONNECT_S, context=self._trust()), False

    def _trust(self) -> ssl.SSLContext:
        """The authorities that httpx trusts: those of SSL_CERT_FILE or SSL_CERT_DIR, else certifi's."""
        with self._lock:
            if self._tls is None:
                import ssl

                file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
                if not file and not folder:
                    import certifi

                    file = certifi.where()
                self._tls = ssl.create_default_context(cafile=file or None, capath=None if file else folder)
            return self._tls

    def keep(self, key: tuple[str, str, int | None], connection: HTTPConnection) -> None:
        """Keep a connection for the next request."""
        with self._lock:
            waiting = self._idle.setdefault(key, [])
            if len(waiting) < _KEPT:
                waiting.append(connection)
                return
        connection.close()

    def _get_by_httpx(self, url: str, headers: Mapping[str, str], read_s: float) -> Response:
        import httpx

        from sdk.pulling.transfer import storage_client

        with self._lock:
            if self._httpx is None:
                self._httpx = storage_client()
        timeout = httpx.Timeout(read_s, connect=CONNECT_S)
        sent = {"Accept-Encoding": "identity", **headers}
        try:
            request = self._httpx.build_request("GET", url, headers=sent, timeout=timeout)
            return _HttpxResponse(self._httpx.send(request, stream=True))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise BrokenConnection(type(error).__name__) from None

    def close(self) -> None:
        """Close the idle connections."""
        with self._lock:
            for waiting in self._idle.values():
                for connection in waiting:
                    connection.close()
            self._idle.clear()
            if self._httpx is not None:
                self._httpx.close()
            self._httpx = None


class _Response:
    def __init__(
        self,
        http: HttpClient,
        key: tuple[str, str, int | None],
        connection: HTTPConnection,
        held: socket.socket,
        response: HTTPResponse,
    ) -> None:
        self._http, self._key = http, key
        self._connection: HTTPConnection | None = connection
        self._socket = held
        self._response = response
        self.status = response.status

    def header(self, name: str) -> str | None:
        return self._response.getheader(name)

    def read(self, most_bytes: int) -> bytes:
        try:
            return self._response.read1(most_bytes)
        except (OSError, HTTPException, ValueError) as error:
            raise BrokenConnection(type(error).__name__) from None

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        # Only a body that was read to its last byte leaves the connection at the beginning of the next answer.
        if not self._response.will_close and (self._response.isclosed() or self._response.length == 0):
            self._response.close()
            self._http.keep(self._key, connection)
        else:
            self._response.close()
            connection.close()

    def abort(self) -> None:
        # If it is already closed, nobody reads from it.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


class _HttpxResponse:
    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._pieces: Iterator[bytes] = response.iter_raw(256 * 1024)
        self._rest = b""
        self.status = response.status_code

    def header(self, name: str) -> str | None:
        value: str | None = self._response.headers.get(name)
        return value

    def read(self, most_bytes: int) -> bytes:
        import httpx

        try:
            piece = self._rest or next(self._pieces, b"")
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise BrokenConnection(type(error).__name__) from None
        self._rest = piece[most_bytes:]
        return piece[:most_bytes]

    def close(self) -> None:
        self._response.close()

    def abort(self) -> None:
        """Do nothing: the reader wakes up when its read times out."""


def proxied() -> bool:
    if any(os.environ.get(name) or os.environ.get(name.upper()) for name in _PROXIES):
        return True
    if sys.platform == "darwin":
        # On macOS a proxy may also be set for the whole system.
        from urllib.request import getproxies

        return bool(getproxies())
    return False
