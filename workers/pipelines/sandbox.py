"""Gives up the network, bounds memory and time, and ends with its parent, in a process that is about to read untrusted
files.
"""

from __future__ import annotations

import ctypes
import inspect
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from sdk.worker_program import PARENT_VARIABLE

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1

#: A call that Python can't interrupt ends the whole process after this many times as long as the block was given.
_PATIENCE = 3


class TooCostly(Exception):  # noqa: N818 - it reads as what happened
    """Untrusted code took more than it was given; the message is the rest of a sentence that begins with the code."""


def stand_alone() -> bool:
    """Leave the network, let no library look for files at a hub, and end with the program that started this one; return
    whether the system allows the first.

    Must be called before libraries are imported, which start threads.
    """
    offline = leave_network()
    die_with_parent(os.environ.get(PARENT_VARIABLE))
    os.environ["HF_HUB_OFFLINE"] = "1"
    return offline


def leave_network() -> bool:
    """Give this process an empty network namespace of its own; return whether the system allows it.

    Only Linux has such namespaces, and an ordinary user may make one only inside a user namespace, which some systems
    forbid. Nothing else changes: the process reads and writes files as before. Must be called before there is a second
    thread, since only a process with a single thread can enter a user namespace.
    """
    if not sys.platform.startswith("linux"):
        return False
    # `os.unshare` exists since Python 3.12.
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() == 0 and libc.unshare(_CLONE_NEWNET) == 0:
        return True
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        return False
    # This keeps its user id the same inside; its files belong to it either way.
    for name, said in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with suppress(OSError):
            Path("/proc/self", name).write_text(said)
    return True


def die_with_parent(parent: str | None) -> None:
    """Ask Linux for SIGKILL when the parent is gone; that may be so already, if it was the process with the id `parent`.

    Must be called after `leave_network`, which makes Linux forget it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent not in (None, str(os.getppid())):
        sys.exit(1)


def limit(*, spare_bytes: int, processor_s: int, file_bytes: int) -> None:
    """Limit what this process may take from now on: additional memory, processor time, the size of a file.

    Must be called with the libraries loaded: torch alone maps gigabytes of address space.
    """
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, file_bytes)
    _lower(resource.RLIMIT_CPU, processor_s)
    # Outside Linux only the parent's timeout limits its memory.
    if (mapped_bytes := _mapped_bytes()) is not None:
        _lower(resource.RLIMIT_AS, mapped_bytes + spare_bytes)


@contextmanager
def bounded(*, spare_bytes: int, processor_s: float) -> Iterator[None]:
    """Bound what a block takes beside what the process has: memory, on Linux, and processor time. Raises TooCostly.

    The process as a whole keeps its limits, so it may be one that has gigabytes of a model. Only for the main thread,
    where signals arrive. A call of a library that doesn't return is not interrupted, but ends the process with SIGXCPU.
    """
    earlier = signal.signal(signal.SIGPROF, _interrupt)
    used = resource.getrusage(resource.RUSAGE_SELF)
    # A collection of all garbage of a large process takes a second, in which Python interrupts nothing.
    patience_s = round(used.ru_utime + used.ru_stime + _PATIENCE * processor_s) + 3
    before = [_lower_for_now(resource.RLIMIT_CORE, 0), _lower_for_now(resource.RLIMIT_CPU, patience_s)]
    if (mapped_bytes := _mapped_bytes()) is not None:
        before.append(_lower_for_now(resource.RLIMIT_AS, mapped_bytes + spare_bytes))
    try:
        try:
            # Again and again, should somebody catch it.
            signal.setitimer(signal.ITIMER_PROF, processor_s, processor_s / 10)
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    except _Interrupted:
        raise TooCostly(f"takes more than {processor_s:g} s of processor time") from None
    except MemoryError:
        raise TooCostly(f"takes more than {spare_bytes // 2**20} MiB of memory") from None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        for which, limits in before:
            resource.setrlimit(which, limits)
        signal.signal(signal.SIGPROF, earlier)


class _Interrupted(BaseException):
    """Passes every `except Exception` of the code that it interrupts."""


def _interrupt(_number: int, frame: FrameType | None) -> None:
    # Interrupted where it ends, `bounded` would leave limits and timer behind, and whatever runs next would be interrupted.
    while frame is not None:
        if frame.f_code in _ENDING:
            return
        frame = frame.f_back
    raise _Interrupted


#: The code of a block's end: that of `bounded`, and what calls it.
_ENDING = frozenset({inspect.unwrap(bounded).__code__, type(bounded(spare_bytes=0, processor_s=0.0)).__exit__.__code__})


def _mapped_bytes() -> int | None:
    """How much address space this process has; None outside Linux, where that is unknown."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return pages * resource.getpagesize()


def _lower_for_now(which: int, most: int) -> tuple[int, tuple[int, int]]:
    """Lower a limit that can be raised again; return it as it was."""
    soft, hard = before = resource.getrlimit(which)
    bounds = [bound for bound in (soft, hard, most) if bound != resource.RLIM_INFINITY]
    resource.setrlimit(which, (min(bounds), hard))
    return which, before


def _lower(which: int, most: int) -> None:
    hard = resource.getrlimit(which)[1]
    bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(which, (bound, bound))
