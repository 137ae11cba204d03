"""The process that reads rows for a server, as a program: `python -m registry.rows.child FD`.

It has done its imports and forks a process for each request, so no request waits for another, and what one does to its
process is over with it. Requests come as sockets through the socket `FD`: an order is read from each, and its answer
written back. This process itself reads no order and no file. It ends with everything that it forked when the server
has closed its end, or is gone.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import selectors
import signal
import socket
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np  # noqa: F401 - so that no request has to

from registry.errors import RegistryError
from registry.rows.orders import WORK
from registry.rows.reading_limits import POOL

#: So much less urgent than the server is all reading.
_NICER = 5


_PR_SET_PDEATHSIG = 1
#: How much later the system itself ends a process that doesn't stop at its limit of processor time, in seconds.
_GRACE_S = 5


def main() -> None:
    """Fork for each request, until the server is gone."""
    control = socket.socket(fileno=int(sys.argv[1]))
    os.nice(_NICER)
    ended, on_ended = socket.socketpair()
    for one in (ended, on_ended):
        one.setblocking(False)
    signal.set_wakeup_fd(on_ended.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _signal, _frame: None)
    #: The socket of each request whose process is at work.
    requests: dict[int, socket.socket] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        selector.register(ended, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in selector.select()}
            if ended in ready:
                with suppress(BlockingIOError):
                    ended.recv(4096)
                _reap(requests)
            if control in ready:
                message, given, _, _ = socket.recv_fds(control, 1, 1)
                if not message:
                    break
                for request in map(_socket_of, given):
                    _begin(request, [control, ended, on_ended, *requests.values()], requests)
    # Everything that it forked is in its group.
    os.killpg(0, signal.SIGKILL)


def _socket_of(descriptor: int) -> socket.socket:
    return socket.socket(fileno=descriptor)


def _begin(request: socket.socket, others: list[socket.socket], requests: dict[int, socket.socket]) -> None:
    """Fork a process that answers a request, and closes what belongs to `others`."""
    parent = os.getpid()
    try:
        pid = POOL.forked()
    except OSError as error:
        _tell(request, {"ended": f"it could not be begun: {error.strerror}"})
        return
    if pid:
        requests[pid] = request
        return
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for one in others:
            one.close()
        die_with(parent)
        _answer(request)
        status = 0
    finally:
        os._exit(status)


def _reap(requests: dict[int, socket.socket]) -> None:
    """Say of each process that was ended by a signal, by which one, and let go of its request."""
    while requests:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        if (request := requests.pop(pid, None)) is not None:
            if os.WIFSIGNALED(status):
                _tell(request, {"signal": os.WTERMSIG(status)})
            request.close()


def _tell(request: socket.socket, what: dict[str, Any]) -> None:
    with suppress(OSError):
        request.send(b"\n" + json.dumps(what).encode() + b"\n", socket.MSG_DONTWAIT)


def _answer(request: socket.socket) -> None:
    with request.makefile("rb") as file:
        order = json.loads(file.read())
    try:
        limit(**order["limits"])
        answer: dict[str, Any] = {"result": WORK[order["work"]](**order["given"])}
    except RegistryError as error:
        answer = {"error": {"code": error.code, "message": error.message, "param": error.param}}
    except MemoryError:
        answer = {"breach": "memory"}
    except OutOfTime:
        answer = {"breach": "time"}
    except OSError as error:
        answer = {"ended": error.strerror}
    except Exception as error:  # noqa: BLE001 - the server answers with it
        traceback.print_exc()
        answer = {"failed": type(error).__name__}
    request.sendall(json.dumps(answer).encode() + b"\n")


class OutOfTime(BaseException):
    """The processor time is used up."""


def die_with(parent: int) -> None:
    """Ask Linux for SIGKILL when the process with this id, which must be the parent, is gone; end at once if it is."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def limit(*, memory_bytes: int, processor_s: int, clock_s: int) -> None:
    """Limit what this process takes from now on. Beyond the memory, which only Linux limits, MemoryError is raised;
    beyond the processor time OutOfTime, and beyond the other time SIGALRM ends the process.
    """
    _lower(resource.RLIMIT_CORE, 0, 0)
    signal.signal(signal.SIGXCPU, _out_of_time)
    used_s = int(sum(os.times()[:2]))
    _lower(resource.RLIMIT_CPU, used_s + processor_s, used_s + processor_s + _GRACE_S)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(clock_s)
    if sys.platform == "linux":
        # Of private writable memory: files that are only mapped to be read take none.
        pages = int(Path("/proc/self/statm").read_text().split()[5])
        most = pages * resource.getpagesize() + memory_bytes
        _lower(resource.RLIMIT_DATA, most, most)


def _out_of_time(_signal: int, _frame: FrameType | None) -> None:
    raise OutOfTime


def _lower(which: int, soft: int, hard: int) -> None:
    most = resource.getrlimit(which)[1]
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(which, (soft, hard))


if __name__ == "__main__":
    main()
