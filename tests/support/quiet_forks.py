"""Forks of a process that has computed in threads.

A thread that Python has joined may still be ending, and hold a lock while it gives back what MKL has for it; a process
that is forked at that moment finds the lock taken, and spins for ever at its first product of matrices.
"""

from __future__ import annotations

import os
import threading
import time

_MOST_S = 60


class QuietForks:
    """Forks once all threads that began after it was made, and that Python no longer knows, are gone."""

    def __init__(self) -> None:
        self._there = _unknown_threads()

    def fork(self) -> int:
        """Like `os.fork`."""
        deadline = time.monotonic() + _MOST_S
        while _unknown_threads() - self._there:
            assert time.monotonic() < deadline, "threads that were joined have not ended"
            time.sleep(0.001)
        return os.fork()


def _unknown_threads() -> set[int]:
    known = {thread.native_id for thread in threading.enumerate()}
    return {int(name) for name in os.listdir("/proc/self/task")} - known
