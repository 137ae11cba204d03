"""What a worker keeps from its own child: the token in its environment, which Linux shows to processes of the same user."""

from __future__ import annotations

import ctypes
import sys

_PR_SET_DUMPABLE = 4


def keep_to_itself() -> None:
    """Let no other process of this user read this one's environment or memory, nor trace it.

    The child computes over what strangers wrote, and its own environment holds no token; /proc/PID/environ of the worker
    does. From now on that belongs to root. What a program executes next may be looked at again: this is of one process.
    Elsewhere than on Linux no process's environment lies open like this.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
