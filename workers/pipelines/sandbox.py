"""Gives up the network, bounds memory and time, and ends with its parent, in a process that is about to read what a stranger wrote."""

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
    """Give this process a network of its own in which there is nothing; return whether the system lets it.

    Linux alone has such namespaces, and an ordinary user may make one only inside a namespace of users, which some
    systems forbid. Nothing else of the process changes: it reads and writes files as before. To be called before there
    is a second thread, which a namespace of users can't have.
    """
    if not sys.platform.startswith("linux"):
        return False
    # `os.unshare` is there from Python 3.12 on.
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() == 0 and libc.unshare(_CLONE_NEWNET) == 0:
        return True
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        return False
    # So that it is called in there as it was outside; files are its own either way.
    for name, said in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with suppress(OSError):
            Path("/proc/self", name).write_text(said)
    return True


def die_with_parent(parent: str | None) -> None:
    """Ask Linux for SIGKILL when the parent is gone; it may be so already, if it was the process with the number `parent`.

    To be called after `leave_network`, which makes Linux forget it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent not in (None, str(os.getppid())):
        sys.exit(1)


def limit(*, spare_bytes: int, processor_s: int, file_bytes: int) -> None:
    """Bound what this process may take from now on: memory beside what it has, processor time, the size of a file.

    To be called with the libraries loaded: torch alone maps gigabytes of address space.
    """
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, file_bytes)
    _lower(resource.RLIMIT_CPU, processor_s)
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        # Elsewhere than on Linux the size of the process is not to be had, and the parent's patience is the bound.
        return
    _lower(resource.RLIMIT_AS, pages * resource.getpagesize() + spare_bytes)


def _lower(which: int, most: int) -> None:
    hard = resource.getrlimit(which)[1]
    bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(which, (bound, bound))
