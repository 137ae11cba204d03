"""What one reading may take, in the process that does it: memory, processor time, and time by the clock."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from pathlib import Path
from types import FrameType

_PR_SET_PDEATHSIG = 1
#: How much later the system itself ends a process that doesn't stop at its limit of processor time, in seconds.
_GRACE_S = 5


class OutOfTime(BaseException):
    """The processor time is used up."""


def die_with(parent: int) -> None:
    """Ask Linux for SIGKILL when the process with this id, which must be the parent, is gone; end at once if it is."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def limit(*, memory_bytes: int, processor_s: int, clock_s: int) -> None:
    """Limit what this process takes from now on. Beyond the memory, which only Linux limits, MemoryError is raised;
    beyond the processor time OutOfTime, and beyond the other time SIGALRM ends the process.
    """
    _lower(resource.RLIMIT_CORE, 0, 0)
    signal.signal(signal.SIGXCPU, _out_of_time)
    used_s = int(sum(os.times()[:2]))
    _lower(resource.RLIMIT_CPU, used_s + processor_s, used_s + processor_s + _GRACE_S)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(clock_s)
    if sys.platform == "linux":
        # Of private writable memory: files that are only mapped to be read take none.
        pages = int(Path("/proc/self/statm").read_text().split()[5])
        most = pages * resource.getpagesize() + memory_bytes
        _lower(resource.RLIMIT_DATA, most, most)


def _out_of_time(_signal: int, _frame: FrameType | None) -> None:
    raise OutOfTime


def _lower(which: int, soft: int, hard: int) -> None:
    most = resource.getrlimit(which)[1]
    if most != resource.RLIM_INFINITY:
        soft, hard = min(soft, most), min(hard, most)
    resource.setrlimit(which, (soft, hard))
