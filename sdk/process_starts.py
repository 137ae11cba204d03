"""When a process started, by which it is told from a later one with its number, and which boot of the machine this is."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def process_started_at(pid: int) -> str | None:
    """Return when a process started, as an opaque text, or None if it is gone or only waits to be reaped."""
    if sys.platform != "linux":
        import psutil

        try:
            process = psutil.Process(pid)
            return None if process.status() == psutil.STATUS_ZOMBIE else repr(process.create_time())
        except psutil.Error:
            return None
    # psutil adds the kernel's count to the time of the machine's start, and that changes when somebody sets the clock.
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the command in brackets and may hold spaces; what follows the last bracket is fixed.
    fields = stat.rpartition(")")[2].split()
    # The kernel counts from the machine's start, so that the count alone could come again after the next one.
    return None if fields[0] in {"Z", "X"} else f"{boot_id()}/{fields[19]}"


@functools.cache
def boot_id() -> str:
    """Return what names this boot of the machine; empty where the system has no such name."""
    return _BOOT_ID.read_text(encoding="utf-8").strip() if _BOOT_ID.exists() else ""
