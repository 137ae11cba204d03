"""A process group: whether any process in it is alive, and how to end it for certain."""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path

_LOOK_S = 0.02
_COMPLAIN_EVERY_S = 10.0

_log = logging.getLogger(__name__)


def is_alive(group: int) -> bool:
    """Whether a process of the group lives. A zombie does not count."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    processes = Path("/proc")
    if not (processes / "self/stat").exists():
        return True
    # If this worker is process 1 of a container, nobody waits for orphans, and they stay as zombies.
    return any(_lives_in(group, process) for process in processes.iterdir() if process.name.isdigit())


def _lives_in(group: int, process: Path) -> bool:
    try:
        # The name in brackets may itself contain brackets and spaces.
        state, _parent, its_group = (process / "stat").read_text(errors="replace").rpartition(")")[2].split()[:3]
    except (OSError, ValueError):
        # It has just ended.
        return False
    return int(its_group) == group and state not in "ZX"


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
