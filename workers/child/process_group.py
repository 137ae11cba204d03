"""A process group: whether any process in it is alive, and how to end it for certain."""

from __future__ import annotations

import logging
import os
import signal
import time

import psutil

_LOOK_S = 0.02
_COMPLAIN_EVERY_S = 10.0
_ENDED = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)

_log = logging.getLogger(__name__)


def is_alive(group: int) -> bool:
    """Whether a process of the group lives. A zombie does not count."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    # If this worker is process 1 of a container, nobody waits for orphans, and they stay as zombies.
    return any(_lives_in(group, pid) for pid in psutil.pids())


def _lives_in(group: int, pid: int) -> bool:
    try:
        return os.getpgid(pid) == group and psutil.Process(pid).status() not in _ENDED
    except (ProcessLookupError, PermissionError, psutil.Error):
        # It has just ended, or is another user's on a system that does not tell.
        return False


def end(group: int) -> None:
    """Kill every process of the group, again and again, until none is left."""
    complain_at = time.monotonic() + _COMPLAIN_EVERY_S
    while is_alive(group):
        try:
            os.killpg(group, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return
        time.sleep(_LOOK_S)
        if time.monotonic() >= complain_at:
            complain_at = time.monotonic() + _COMPLAIN_EVERY_S
            _log.warning("processes of the group %s were killed but are still there; they hang in the kernel", group)
