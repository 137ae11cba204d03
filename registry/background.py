"""Work that a sweep begins and nobody waits for: one thread at a time, which ends when nothing is left to do."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from registry.errors import RegistryError
from registry.pools import Pool


class BackgroundWork:
    """Does some work in a thread of a pool; what it fails at is logged, and the next sweep begins again."""

    def __init__(self, pool: Pool, work: Callable[[], object], *, name: str, failed: str, log: logging.Logger) -> None:
        """`failed` begins the sentence that is logged: "the rows of scores could not be checked"."""
        self._pool = pool
        self._work = work
        self._name = name
        self._failed = failed
        self._log = log
        self._thread: threading.Thread | None = None

    def begin(self, is_asked: Callable[[], bool]) -> int:
        """Begin, unless it is at work or nobody asks for it; return 1 if it began."""
        if (self._thread is not None and self._thread.is_alive()) or not is_asked():
            return 0
        self._thread = self._pool.thread(self._run, name=self._name)
        self._thread.start()
        return 1

    def wait(self) -> None:
        """Wait for what was begun."""
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            self._work()
        except Exception as error:  # noqa: BLE001 - nobody else hears of it; the next sweep begins again
            why = error.message if isinstance(error, RegistryError) else type(error).__name__
            self._log.warning("%s; the next sweep tries again: %s", self._failed, why)
