"""Why the database could not be used: what its driver said, in one line of the log.

A caller who is refused is told in one sentence what to do; the operator of the server needs the driver's class, code
and words.

>>> Causes(clock=lambda: 0.0).note(TimeoutError("no connection became free"), took_s=3.0)
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from threading import Lock

from registry.deadlines import NoAnswer

#: At most this many lines are written in this many seconds: if the database is away, every request fails.
_WINDOW_S, _LINES = 5.0, 10

_log = logging.getLogger(__name__)


class Causes:
    """Logs causes, but only a few if there are very many."""

    def __init__(self, *, logs: bool = True, clock: Callable[[], float] = time.monotonic) -> None:
        self._logs = logs
        self._clock = clock
        self._lock = Lock()
        self._began = float("-inf")
        self._told = self._untold = 0

    def note(self, error: BaseException, *, took_s: float) -> None:
        """Log the driver's error behind one of SQLAlchemy's, unless many were logged a moment ago."""
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
    """What a driver said, in one line, and who ended the wait.

    The details are left out: they may contain values of a row.

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
