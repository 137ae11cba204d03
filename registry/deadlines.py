"""How long this process waits for what it depends on, and what it does once that no longer answers.

A database or a store that is stopped, and not dead, is the worst case: its kernel still takes what is sent and
acknowledges it, so no connection breaks. Whoever asks it waits for as long as `Timeouts` says; then `CircuitBreaker` lets
one caller a second ask again and refuses the rest at once, so that not every thread waits for the same silent part.

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

#: How often something that has fallen silent is asked again, in seconds.
ASK_AGAIN_S = 1.0


@dataclass(frozen=True)
class Timeouts:
    """How long a database is waited for, in seconds."""

    #: Until PostgreSQL has taken a connection. Its library takes no less than 2.
    connect_s: float = 3.0
    #: How long PostgreSQL may take for one statement before it gives it up.
    statement_s: float = 5.0
    #: How long a statement waits for a lock that somebody holds; on SQLite, a transaction for another one that writes.
    #: None: 4 on PostgreSQL. On SQLite 60, since those who wait there are served in no order.
    lock_s: float | None = None
    #: After how long between two statements PostgreSQL ends a transaction, whose process has been stopped.
    idle_s: float = 15.0
    #: How long what was sent may stay without the acknowledgement of the other side's kernel.
    tcp_s: float = 6.0
    #: How long the statements of one transaction are waited for in all, whatever PostgreSQL does: it may be stopped.
    deadline_s: float = 6.0
    #: How long the statements of all migrations may take: rows of large tables are written anew.
    migration_s: float = 3600.0
    #: How long each statement of a migration on PostgreSQL waits for somebody's lock before the whole is given up.
    migration_lock_s: float = 30.0
    #: How long one waits for a connection of this process. None: 3 on PostgreSQL, and 30 on SQLite.
    pool_s: float | None = None
    #: How many connections this process has at most.
    connections: int = 15
    #: Whether PostgreSQL is told its limits when a connection begins. Some poolers refuse such a connection.
    tells: bool = True


class Places:
    """So many threads of this process may wait for something at once; more of them would only be missing elsewhere."""

    def __init__(self, count: int, what: str, refusal: Callable[[str], Exception], *, within_s: float = 0.5) -> None:
        self._free = threading.BoundedSemaphore(count)
        self._what = what
        self._make_refusal = refusal
        self._within_s = within_s

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Take a place for the block. Raises the refusal where none becomes free soon."""
        if not self._free.acquire(timeout=self._within_s):
            raise self._make_refusal(f"{self._what} is overloaded; try again shortly")
        try:
            yield
        finally:
            self._free.release()


class NoAnswer(Exception):  # noqa: N818 - it reads as what happened
    """Something has not answered within the time that it was given. Drivers' own errors may be this too."""


class CircuitBreaker:
    """Notes when something has stopped answering, and spares it, and the callers, further questions.

    It has stopped where a caller waited in vain and no caller that began with him or later was answered. From then on
    one caller every `ASK_AGAIN_S` may ask, until one is answered.
    """

    def __init__(
        self, what: str, refusal: Callable[[str], Exception], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`refusal` makes the error of a sentence on `what`."""
        self._what = what
        self._make_refusal = refusal
        self._clock = clock
        self._changing = threading.Lock()
        #: When the caller began that was answered, of all that were the one that began last.
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
        """Ask it within the block, where NoAnswer means that it was in vain. Raises the refusal where it is silent."""
        began = self._begin()
        try:
            yield
        except BaseException as error:
            # What a driver has raised stands behind SQLAlchemy's error.
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
            # Who began before it fell silent may have been answered before it did.
            if self._opened_at is not None and began >= self._opened_at:
                self._opened_at = None

    def _refusal(self) -> Exception:
        return self._make_refusal(f"{self._what} does not answer; check that it runs, then try again")
