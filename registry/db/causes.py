"""Why the database could not be used: what its driver said, in one line of the log.

Whoever is refused is told in a sentence what to do; whoever runs the server wants the driver's class, its code and words.

>>> Causes(clock=lambda: 0.0).note(TimeoutError("no connection became free"), took_s=3.0)
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from threading import Lock

from registry.deadlines import NoAnswer

#: In so many seconds, at most so many lines are written: a database that is away is so for every request.
_WINDOW_S, _LINES = 5.0, 10

_log = logging.getLogger(__name__)


class Causes:
    """Writes them down, and few of very many."""

    def __init__(self, *, logs: bool = True, clock: Callable[[], float] = time.monotonic) -> None:
        self._logs = logs
        self._clock = clock
        self._lock = Lock()
        self._began = float("-inf")
        self._told = self._untold = 0

    def note(self, error: BaseException, *, took_s: float) -> None:
        """Log the driver's error behind one of SQLAlchemy's, unless many were a moment ago."""
        if not self._logs:
            return
        with self._lock:
            now, untold = self._clock(), 0
            if now - self._began >= _WINDOW_S:
                untold, self._began, self._told, self._untold = self._untold, now, 0, 0
            if self._told >= _LINES:
                self._untold += 1
                return
            self._told += 1
        if untold:
            _log.warning("%s more failures of the database were not logged one by one", untold)
        _log.warning("the database can't be used after %.2f s: %s", took_s, told(error))


def told(error: BaseException) -> str:
    """What a driver said, on one line, and who ended the wait.

    Without its details: these may hold what a row holds.

    >>> told(TimeoutError("no end\\nDETAIL: key (name)=(a)"))
    'TimeoutError (no SQLSTATE): no end'
    """
    driver = getattr(error, "orig", None) or error
    state = getattr(driver, "sqlstate", None) or "no SQLSTATE"
    first = (str(driver).splitlines() or [""])[0]
    ended = "; the registry stopped waiting and closed the connection" if _is_ours(driver) else ""
    return f"{type(driver).__name__} ({state}): {first}{ended}"


def _is_ours(error: BaseException) -> bool:
    return isinstance(error, NoAnswer) or getattr(error, "closed_by_us", False)
