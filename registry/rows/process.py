"""The warm child of a server process, as the server sees it: orders are sent, and answers come or don't."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from contextlib import suppress
from typing import Any

from registry.errors import Conflict, Invalid, InvalidData, NotFound, RegistryError, Unavailable, Verification
from registry.rows.reading_limits import POOL, ReadingLimits

PROGRAM = ("-P", "-m", "registry.rows.child")
#: An answer is short: numbers are in files.
_MOST_ANSWER_BYTES = 16 * 1024 * 1024
_CHUNK_BYTES = 1 << 16
#: How long an order may take to be handed over, how much later than the child's own limit the server stops waiting, and
#: how long it waits for a child that has to end, in seconds.
_HAND_OVER_S, _LATER_S, _END_S = 5.0, 5.0, 5.0
#: What the child is given of this process's environment: it has no use for any secret.
_PASSED = ("PATH", "HOME", "LANG", "TMPDIR", "TZ", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
_PASSED_PREFIXES = ("LC_", "PYTHON", "COVERAGE_")
#: With a second thread, its process could not be forked safely; and Arrow's own pools take more memory than they use.
_LIBRARIES = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}
_ERRORS: dict[str, type[RegistryError]] = {
    one.code: one for one in (Conflict, Invalid, InvalidData, NotFound, Verification)
}
#: Signals that a program gets for what it does itself, rather than from others.
_CRASHES = frozenset({signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL})

_log = logging.getLogger(__name__)


class Breach(Exception):  # noqa: N818 - it is an answer
    """Rows that take more than they may; the message is the rest of a sentence that begins with what is read."""

    def __init__(self, message: str, *, of_time: bool = False) -> None:
        super().__init__(message)
        #: Whether it is processor time.
        self.of_time = of_time


class ReadingProcess:
    """One child for as long as this process lasts: it is started when it is first needed, and again if it has ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: _Child | None = None

    def ask(self, work: str, given: dict[str, Any], limits: ReadingLimits) -> Any:
        """Return what a function of `registry.rows.orders` returns, within limits.

        Raises what it raises, Breach if it takes more, Unavailable if the machine is too busy for it, or the child was
        ended or can't be started, RuntimeError for an error that nobody expects.
        """
        order = {"work": work, "given": given, "limits": limits.given()}
        begin = time.monotonic()
        with self._handed_over() as ours:
            try:
                ours.sendall(json.dumps(order).encode())
                ours.shutdown(socket.SHUT_WR)
                answer = _answer(ours, begin + limits.clock_s + _LATER_S)
            except TimeoutError:
                raise _too_slow(limits) from None
            except OSError:
                answer = {}
        return _result(answer, limits)

    @property
    def pid(self) -> int | None:
        """The child's process id; None if there is none."""
        return None if self._child is None else self._child.process.pid

    def close(self) -> None:
        """End the child with all that it does."""
        with self._lock:
            child, self._child = self._child, None
        if child is not None:
            child.end()

    def _handed_over(self) -> socket.socket:
        """Return a socket whose other end the child has."""
        with self._lock:
            for _ in range(2):
                # A fork of this process has another child.
                if self._child is None or self._child.of_pid != os.getpid():
                    self._child = _Child()
                ours, theirs = socket.socketpair()
                with theirs:
                    try:
                        socket.send_fds(self._child.control, [b"r"], [theirs.fileno()])
                    except OSError:
                        # It was ended by somebody, or by the system for want of memory.
                        ours.close()
                        self._child.end()
                        self._child = None
                    else:
                        return ours
        raise Unavailable("the process that reads rows ends as soon as it is started; see the server's log")


class _Child:
    """A started child, and the socket through which it gets requests."""

    def __init__(self) -> None:
        passed = {
            name: value for name, value in os.environ.items() if name in _PASSED or name.startswith(_PASSED_PREFIXES)
        }
        self.of_pid = os.getpid()
        self.control, theirs = socket.socketpair()
        self.control.settimeout(_HAND_OVER_S)
        with theirs:
            try:
                self.process = POOL.process(
                    [sys.executable, *PROGRAM, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                    env={**passed, **_LIBRARIES},
                )
            except OSError as error:
                self.control.close()
                raise Unavailable(
                    f"no process to read rows can be started ({error.strerror}); try again later"
                ) from error
        self.end = weakref.finalize(self, _end, self.process, self.control)


def _end(process: subprocess.Popen[bytes], control: socket.socket) -> None:
    """Let a child end itself with all that it has forked; kill it if it doesn't."""
    control.close()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answer(ours: socket.socket, until: float) -> dict[str, Any]:
    """Return the last line that comes, as an object; an empty one if none came. Raises TimeoutError, OSError."""
    parts: list[bytes] = []
    size = 0
    while size <= _MOST_ANSWER_BYTES:
        ours.settimeout(max(0.01, until - time.monotonic()))
        part = ours.recv(_CHUNK_BYTES)
        if not part:
            break
        parts.append(part)
        size += len(part)
    *_, last, rest = [b"", *b"".join(parts).split(b"\n")]
    try:
        found = json.loads(last) if not rest else None
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {}


def _too_slow(limits: ReadingLimits) -> Unavailable:
    """It may have been the machine, so nothing is concluded about the rows."""
    return Unavailable(
        f"reading the rows was given up after {limits.clock_s} s; try again when the server is less busy"
    )


def _result(answer: dict[str, Any], limits: ReadingLimits) -> Any:
    if "result" in answer:
        return answer["result"]
    if isinstance(error := answer.get("error"), dict) and error.get("code") in _ERRORS:
        raise _ERRORS[error["code"]](str(error.get("message")), param=error.get("param"))
    match answer:
        case {"breach": "memory"}:
            raise Breach(limits.out_of_memory)
        case {"breach": "time"} | {"signal": signal.SIGXCPU}:
            raise Breach(limits.out_of_time, of_time=True)
        case {"signal": signal.SIGALRM}:
            raise _too_slow(limits)
        case {"signal": int(number)} if number in _CRASHES:
            _log.error("the process that read rows ended by the signal %s", number)
            raise Breach("ended the process that read its rows; write the file again, as JSONL")
        case {"failed": name}:
            raise RuntimeError(f"reading rows failed ({name}); the log has the details")
    _log.error("the process that read rows has ended: %s", answer or "killed")
    raise Unavailable("the process that reads rows was ended; try again")
