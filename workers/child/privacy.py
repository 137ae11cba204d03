"""What a worker keeps from its own child: the token in its environment, which Linux shows to processes of the same user."""

from __future__ import annotations

import ctypes
import sys

_PR_SET_DUMPABLE = 4


def keep_to_itself() -> None:
    """Prevent other processes of this user from reading this one's environment or memory, or tracing it.

    The child processes untrusted files; its own environment has no token, but the worker's /proc/PID/environ has. After
    this call that file belongs to root. Programs that this process executes can be read again: it covers only one
    process. Only Linux exposes environments like this.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
