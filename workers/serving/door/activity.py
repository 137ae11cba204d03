"""What an engine program has to do, and since when it has had nothing to do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from workers.main_memory import main_memory

#: How often it is looked whether a program is needed.
_LOOK_EVERY_S = 1.0


class Activity:
    """Counts requests; used by the event loop alone."""

    def __init__(self) -> None:
        self.running = 0
        self._since = time.monotonic()
        #: Whether no more requests are taken, since the program is about to end.
        self.ending = False

    @contextmanager
    def one(self) -> Iterator[None]:
        """Count a request while the block runs."""
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1
            self._since = time.monotonic()

    @property
    def idle_s(self) -> float:
        """For how long nothing was asked; 0 while something runs."""
        return 0.0 if self.running else time.monotonic() - self._since


async def unneeded(activity: Activity, *, idle_s: float | None, least_bytes: int) -> None:
    """Return once nothing was asked for `idle_s`, if that is given, or less main memory than `least_bytes` is available;
    what runs is completed before, and nothing new is taken.
    """
    every_s = _LOOK_EVERY_S if idle_s is None else min(_LOOK_EVERY_S, max(0.02, idle_s / 4))
    while not activity.ending or activity.running:
        await asyncio.sleep(every_s)
        short = least_bytes > 0 and main_memory().available_bytes < least_bytes
        if short or (idle_s is not None and not activity.running and activity.idle_s >= idle_s):
            activity.ending = True
