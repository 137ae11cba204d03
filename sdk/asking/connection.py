"""HTTP over the private Unix socket of an engine program, by the standard library: a warm answer takes less time than importing
an HTTP client would.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

#: How long a program may take for anything but an answer; loading an adapter reads it from a disk.
_TIMEOUT_S = 300.0
#: The longest line of a stream, and the longest other answer. Our own program sends far less.
_MOST_BYTES = 16 * 1024 * 1024
_DATA, _DONE = b"data:", b"[DONE]"


class EngineAway(Exception):  # noqa: N818 - it reads as what happened
    """The program doesn't answer: it has ended, or ends just now."""


class EngineRefusal(Exception):  # noqa: N818
    """The program refuses a request; the message is one sentence."""

    def __init__(self, status: int, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param = status, code, message, param


class Stream:
    """The events of an answer, as they come. `close` may be called by any thread: the program then stops within a step."""

    def __init__(self, connection: _UnixConnection, response: http.client.HTTPResponse) -> None:
        self._connection, self._response = connection, response

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield each event. Raises EngineAway if the program ends before the answer does, EngineRefusal for an error within it."""
        try:
            while True:
                try:
                    line = self._response.readline(_MOST_BYTES)
                except (OSError, ValueError, http.client.HTTPException) as error:
                    raise EngineAway(str(error)) from error
                if not line:
                    raise EngineAway("the answer broke off")
                if not line.startswith(_DATA):
                    continue
                data = line.removeprefix(_DATA).strip()
                if data == _DONE:
                    return
                yield _without_error(self._response.status, _object(data))
        finally:
            self.close()

    def close(self) -> None:
        """End the connection, and so the answer."""
        # Closing alone would not wake a thread that reads from it.
        if self._connection.sock is not None:
            with suppress(OSError):
                self._connection.sock.shutdown(socket.SHUT_RDWR)
        with suppress(OSError, ValueError):
            self._connection.close()


def call(path: str, method: str, route: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what a program answers at a socket. Raises EngineAway, EngineRefusal."""
    connection, response = _send(path, method, route, body, timeout_s=_TIMEOUT_S)
    try:
        return _object(_read(response))
    finally:
        connection.close()


def stream(path: str, route: str, body: Mapping[str, Any]) -> Stream:
    """Begin an answer, which takes as long as it takes. Raises EngineAway, EngineRefusal."""
    return Stream(*_send(path, "POST", route, body, timeout_s=None))


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float | None) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path, self._timeout_s = path, timeout_s

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._timeout_s)
        self.sock.connect(self._path)


def _send(
    path: str, method: str, route: str, body: Mapping[str, Any] | None, *, timeout_s: float | None
) -> tuple[_UnixConnection, http.client.HTTPResponse]:
    connection = _UnixConnection(path, timeout_s)
    try:
        content = None if body is None else json.dumps(body).encode()
        connection.request(method, route, content, {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status >= 400:
            _without_error(response.status, _object(_read(response)))
            raise EngineRefusal(response.status, "", f"the engine answered {response.status}")
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        raise EngineAway(str(error)) from error
    except BaseException:
        connection.close()
        raise
    return connection, response


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(_MOST_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise EngineAway(str(error)) from error


def _object(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise EngineAway("the engine's answer is not JSON") from error
    return found if isinstance(found, dict) else {}


def _without_error(status: int, event: dict[str, Any]) -> dict[str, Any]:
    """Return an event that is no error. Raises EngineRefusal."""
    error = event.get("error")
    if error is None:
        return event
    if not isinstance(error, dict):
        error = {"message": str(error)}
    code = error.get("code") or error.get("type") or ""
    raise EngineRefusal(status, str(code), str(error.get("message", "the engine failed")), error.get("param"))
