"""How long this process waits for what it depends on, and what it does when that no longer answers.

A database or a store that is stopped but not dead is the worst case: its kernel still accepts what is sent and
acknowledges it, so no connection breaks. A caller waits as long as `Timeouts` says; then `CircuitBreaker` lets one
caller per second try again and refuses the others at once, so that not every thread waits for the same silent part.

>>> from registry.errors import Unavailable
>>> breaker = CircuitBreaker("the store", Unavailable)
>>> with breaker.asking():
...     "an answer"
'an answer'
>>> with breaker.asking():
...     raise NoAnswer
Traceback (most recent call last):
registry.errors.Unavailable: the store does not answer; check that it runs, then try again
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from registry.pools import Occupancy, Pool

#: How often something that stopped answering is tried again, in seconds.
ASK_AGAIN_S = 1.0


@dataclass(frozen=True)
class Timeouts:
    """How long to wait for a database, in seconds."""

    #: Until PostgreSQL has accepted a connection. Its library accepts no less than 2.
    connect_s: float = 3.0
    #: How long PostgreSQL may take for one statement before it gives up.
    statement_s: float = 5.0
    #: How long a statement waits for somebody's lock; on SQLite, how long a transaction waits for another one that
    #: writes. None: 4 on PostgreSQL, and 60 on SQLite, which serves processes that wait in no particular order.
    lock_s: float | None = None
    #: After how long between two statements PostgreSQL ends a transaction: its process has been stopped.
    idle_s: float = 15.0
    #: How long sent data may remain unacknowledged by the other side's kernel.
    tcp_s: float = 6.0
    #: How long to wait for the statements of one transaction in all, whatever PostgreSQL does: it may be stopped.
    deadline_s: float = 6.0
    #: How long the statements of all migrations may take: rows of large tables are rewritten.
    migration_s: float = 3600.0
    #: How long each statement of a migration on PostgreSQL waits for somebody's lock before the whole migration is
    #: given up.
    migration_lock_s: float = 30.0
    #: How long to wait for a connection of this process. None: 3 on PostgreSQL, and 30 on SQLite.
    pool_s: float | None = None
    #: How many connections this process has at most.
    connections: int = 15
    #: Whether PostgreSQL is told its limits when a connection begins. Some poolers refuse such a connection.
    tells: bool = True


class Places:
    """Limits how many threads of this process may wait for something at once; any more would be missing elsewhere."""

    def __init__(
        self, pool: Pool, count: int, what: str, refusal: Callable[[str], Exception], *, within_s: float = 0.5
    ) -> None:
        self._free = pool.semaphore(count)
        #: How many threads have a place, and how many wait for one.
        self._running, self._waiting, self._counting = 0, 0, threading.Lock()
        self._places = count
        pool.watch(self)
        self._what = what
        self._make_refusal = refusal
        self._within_s = within_s

    @property
    def occupancy(self) -> Occupancy:
        """How many threads have a place, and how many wait for one."""
        return Occupancy(self._running, self._waiting, self._places)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Take a place for the block. Raises the refusal if none becomes free soon."""
        self._count(waiting=1)
        has_place = self._free.acquire(timeout=self._within_s)
        self._count(waiting=-1, running=int(has_place))
        if not has_place:
            raise self._make_refusal(f"{self._what} is overloaded; try again shortly")
        try:
            yield
        finally:
            self._count(running=-1)
            self._free.release()

    def _count(self, *, running: int = 0, waiting: int = 0) -> None:
        with self._counting:
            self._running += running
            self._waiting += waiting


class NoAnswer(Exception):  # noqa: N818 - it reads as what happened
    """Something has not answered within its time. Drivers' own errors may be subclasses of this too."""


class CircuitBreaker:
    """Notes when something has stopped answering, and spares it and the callers further attempts.

    It has stopped if a caller waited in vain and no caller that began at the same time or later was answered. From then
    on one caller every `ASK_AGAIN_S` may ask, until one is answered.
    """

    def __init__(
        self, what: str, refusal: Callable[[str], Exception], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`refusal` makes the error from a sentence about `what`."""
        self._what = what
        self._make_refusal = refusal
        self._clock = clock
        self._changing = threading.Lock()
        #: When the caller that was answered began; if several were, the one that began last.
        self._answered_at = float("-inf")
        #: When it was found to be silent; None: it answers.
        self._opened_at: float | None = None
        self._ask_again_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether it was found to be silent, and has not answered since."""
        return self._opened_at is not None

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Ask it within the block, in which NoAnswer means that it was in vain. Raises the refusal if it is known to be
        silent.
        """
        began = self._begin()
        try:
            yield
        except BaseException as error:
            # The driver's error is the cause of SQLAlchemy's.
            if not isinstance(error, NoAnswer) and not isinstance(getattr(error, "orig", None), NoAnswer):
                raise
            self._note_failure(began)
            raise self._refusal() from error
        if began > self._answered_at:
            self._note_answer(began)

    def _begin(self) -> float:
        now = self._clock()
        if self._opened_at is not None:
            with self._changing:
                if self._opened_at is not None:
                    if now < self._ask_again_at:
                        raise self._refusal()
                    self._ask_again_at = now + ASK_AGAIN_S
        return now

    def _note_failure(self, began: float) -> None:
        with self._changing:
            if self._opened_at is None and self._answered_at < began:
                self._opened_at = self._ask_again_at = self._clock()

    def _note_answer(self, began: float) -> None:
        with self._changing:
            self._answered_at = max(self._answered_at, began)
            # A caller that began before it fell silent may have been answered before that.
            if self._opened_at is not None and began >= self._opened_at:
                self._opened_at = None

    def _refusal(self) -> Exception:
        return self._make_refusal(f"{self._what} does not answer; check that it runs, then try again")
