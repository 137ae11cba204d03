"""What an engine program has to do, and since when it has had nothing to do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


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
