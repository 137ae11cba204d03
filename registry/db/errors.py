"""What callers are told about errors of the driver or the pool of connections, and what the log says of them.

>>> explain(OverflowError("Python int too large to convert to SQLite INTEGER")).code
<ErrorCode.INVALID: 'invalid'>

A caller who is refused is told in one sentence what to do; the operator of the server needs the driver's class, code
and words.

>>> Causes(clock=lambda: 0.0).note(TimeoutError("no connection became free"), took_s=3.0)
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from threading import Lock

from sqlalchemy.exc import DatabaseError, DataError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from registry.deadlines import NoAnswer
from registry.errors import Invalid, Unavailable

#: What drivers say about a connection that was open.
_ENDED = ("closed the connection", "connection is closed", "terminating connection", "reset by peer")


#: At most this many lines are written in this many seconds: if the database is away, every request fails.
_WINDOW_S, _LINES = 5.0, 10
_log = logging.getLogger(__name__)


def explain(error: Exception) -> Invalid | Unavailable | None:
    """Return the error that says what to do, or None if this one is our own fault."""
    if isinstance(error, PoolTimeoutError):
        return Unavailable("the database is overloaded; try again shortly")
    if isinstance(error, DataError):
        return Invalid("a value is too long for the database, or out of its range; send a smaller one")
    if isinstance(error, OverflowError):
        # What SQLite's driver raises for an integer of more than 64 bits.
        return Invalid("a number is out of the database's range; send a smaller one")
    if isinstance(error, InterfaceError):
        return Unavailable("the database can't be reached; check that it runs, then try again")
    # Errors of our own or of a value, such as IntegrityError, are subclasses of these.
    if type(error) in (OperationalError, InternalError, DatabaseError):
        return _said_by_driver(str(error.orig))  # type: ignore[attr-defined]
    return None


def says_full(error: Exception) -> bool:
    """Whether a driver says that the disk of the database is full."""
    return isinstance(error, DatabaseError) and _is_full(str(error.orig))


def _is_full(reason: str) -> bool:
    return "is full" in reason or "No space left" in reason


def _said_by_driver(reason: str) -> Unavailable | None:
    if _is_full(reason):
        return Unavailable("the disk that holds the database is full; free some space, then try again")
    if "readonly" in reason or "unable to open" in reason:
        return Unavailable(f"the database can't be opened for writing ({reason}); check the folder and its permissions")
    if "not a database" in reason or "malformed" in reason:
        return Unavailable("the database file is damaged, or was not made by the registry; restore it from a backup")
    if "locked" in reason or "lock timeout" in reason:
        return Unavailable("the database is busy with another program's changes; try again shortly")
    if "statement timeout" in reason:
        return Unavailable("the database took too long for this; ask for less, or try again shortly")
    if "idle-in-transaction" in reason:
        return Unavailable("this server paused during a transaction, and the database rolled it back; try again")
    if any(word in reason for word in ("too many clients", "too many connections", "connection slots")):
        return Unavailable(
            "the database has no connection left; raise its max_connections or lower REGISTRY_DATABASE_CONNECTIONS, "
            "or try again shortly"
        )
    if "connection failed" not in reason and any(word in reason for word in _ENDED):
        # It existed when the transaction began. If it has gone away, the next caller is told so.
        return Unavailable("the database closed the connection during a transaction; try again shortly")
    if any(
        word in reason for word in ("connect", "no answer", "terminating", "closed", "starting up", "shutting down")
    ):
        return Unavailable("the database can't be reached; check that it runs, then try again")
    return None


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
    ended = (
        "; the registry stopped waiting and closed the connection"
        if isinstance(driver, NoAnswer) or getattr(driver, "closed_by_us", False)
        else ""
    )
    return f"{type(driver).__name__} ({state}): {first}{ended}"
