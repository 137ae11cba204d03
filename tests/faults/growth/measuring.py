"""How much one piece of work takes of this process: processor time, memory at its peak, and how long the loop stood still.

Both are the kernel's own numbers. Everything is counted that this process does meanwhile, so it does nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import resource
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from faults.growth.costs import MOST_BYTES, MOST_CPU_S, Cost

_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
#: Address space that libraries and threads take without using it.
_SPARE_BYTES = 1024 * 1024 * 1024


def _kilobytes(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(name)


def _trim() -> None:
    # What was freed is given back, or the next peak would be hidden in it.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def limit() -> None:
    """End this process if what comes now takes more processor time or memory than anything may."""
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used) + 1 + MOST_CPU_S, hard))
    resource.setrlimit(resource.RLIMIT_AS, (_kilobytes("VmSize") + MOST_BYTES + _SPARE_BYTES, -1))


def _lift() -> None:
    for kind in (resource.RLIMIT_CPU, resource.RLIMIT_AS):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (hard, hard))


async def measured(sent_bytes: int, work: Callable[[], Awaitable[int]]) -> Cost:
    """Return what some work costs, which returns the status that it ended with."""
    gc.collect()
    _trim()
    limit()
    gaps = [0.0]

    async def look() -> None:
        last = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            gaps[0] = max(gaps[0], now - last)
            await asyncio.sleep(0.002)
            last = time.thread_time()

    looking = asyncio.create_task(look())
    await asyncio.sleep(0)
    _CLEAR.write_text("5")
    rest_bytes, began_s = _kilobytes("VmRSS"), time.process_time()
    status = await work()
    cpu_s, peak_bytes = time.process_time() - began_s, _kilobytes("VmHWM") - rest_bytes
    await asyncio.sleep(0)
    looking.cancel()
    _lift()
    return Cost(sent_bytes=sent_bytes, cpu_s=cpu_s, peak_bytes=max(0, peak_bytes), gap_s=gaps[0], status=status)
