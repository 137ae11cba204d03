"""Gives up the network, bounds memory and time, and ends with its parent, in a process that is about to read untrusted
files.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from contextlib import suppress
from pathlib import Path

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1


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
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        # Outside Linux the size of the process is unknown, and only the parent's timeout limits it.
        return
    _lower(resource.RLIMIT_AS, pages * resource.getpagesize() + spare_bytes)


def _lower(which: int, most: int) -> None:
    hard = resource.getrlimit(which)[1]
    bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(which, (bound, bound))
