"""A process that cuts itself off from the network, before it reads what a stranger wrote."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from pathlib import Path

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000


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
