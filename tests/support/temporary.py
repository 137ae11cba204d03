"""Where tests keep their files: in memory if the machine has room there, so that they don't wait for a disk."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

#: How much a run of everything may have at once, with room to spare.
_NEEDED_BYTES = 6 * 2**30
_MEMORY = Path("/dev/shm")


def use_memory() -> None:
    """Let this process, and those below it, make temporary files in memory, unless TMPDIR says where they belong."""
    if "TMPDIR" not in os.environ and _has_room(_MEMORY):
        os.environ["TMPDIR"] = str(_MEMORY)
        tempfile.tempdir = None


def _has_room(folder: Path) -> bool:
    """Whether this much fits and programs can be run from there, which containers often forbid."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return False
    return (
        os.access(folder, os.W_OK)
        and not found.f_flag & os.ST_NOEXEC
        and found.f_bavail * found.f_frsize >= _NEEDED_BYTES
        and _free_memory_bytes() >= 2 * _NEEDED_BYTES
    )


def _free_memory_bytes() -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024
