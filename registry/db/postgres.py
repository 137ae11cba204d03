"""Connections to PostgreSQL that wait no longer than they are told, whatever happens to the server.

PostgreSQL's own time-outs end what it works on. They don't help if the server process is stopped, and neither do those
of TCP, because its kernel still acknowledges. So a connection counts how long it has waited within a transaction;
beyond its limit it is closed, and the caller gets an error.

This module is only imported if the database is PostgreSQL: its driver takes a tenth of a second to import.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from typing import Any, Self, TypeVar

import psycopg
from psycopg import Connection
from psycopg.errors import ConnectionTimeout

from registry.deadlines import NoAnswer, Timeouts

#: How long a statement waits for a lock unless settings say otherwise, in seconds.
_LOCK_S = 4.0
#: How often a waiting connection checks how long it has waited, in seconds.
TICK_S = 0.1
#: A busy server may take this many times its time-out for a statement until it reports the time-out.
_LATE = 1.1

T = TypeVar("T")


class Unanswered(NoAnswer, psycopg.OperationalError):
    """The server has not answered within the limit. The connection is closed."""


class DatabaseTooSlow(psycopg.OperationalError):
    """The server answers, but has not finished within the limit. The connection is closed."""

    closed_by_us = True


class BoundedConnection(Connection[Any]):
    """A connection whose transactions wait for at most `deadline_s` in all, and then are over."""

    #: How long to wait for the statements of one transaction.
    deadline_s = usual_deadline_s = math.inf
    #: How long the server may take for one of them before it gives up itself.
    statement_s = usual_statement_s = math.inf
    #: How long the present transaction has waited for its statements.
    waited_s = 0.0

    @classmethod
    def open(cls, timeouts: Timeouts, arguments: Mapping[str, Any]) -> Self:
        """Connect. `arguments` are those of the URL, and take precedence over `timeouts`."""
        try:
            made = cls.connect(**parameters(timeouts, arguments))
        except ConnectionTimeout as error:
            raise Unanswered(str(error)) from error
        made.deadline_s = made.usual_deadline_s = timeouts.deadline_s
        made.statement_s = made.usual_statement_s = timeouts.statement_s
        return made

    def ping(self, within_s: float) -> None:
        """Check that the server still knows this connection. Raises Unanswered, and errors of the driver."""
        self.deadline_s = within_s
        self.autocommit = True
        self.execute("")
        self.autocommit = False
        self._start_over()

    def wait(self, gen: Generator[Any, Any, T], *args: Any, **kwargs: Any) -> T:
        """Wait for the server. Raises Unanswered, TooSlow."""
        if self.autocommit:
            self.waited_s = 0.0
        return super().wait(_within_limit(self, gen), *args, **kwargs)

    def commit(self) -> None:
        """End the transaction; the next one may wait for as long again."""
        super().commit()
        self._start_over()

    def rollback(self) -> None:
        """End the transaction; the next one may wait for as long again."""
        super().rollback()
        self._start_over()

    def allow(self, seconds: float) -> None:
        """Let the present transaction, and each of its statements, take this long; the caller tells the server."""
        self.deadline_s = self.statement_s = seconds

    def _start_over(self) -> None:
        self.waited_s = 0.0
        self.deadline_s, self.statement_s = self.usual_deadline_s, self.usual_statement_s


def parameters(timeouts: Timeouts, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What the driver is given to connect: the `arguments` of the URL, and the limits that these don't set."""
    given = {
        "connect_timeout": max(2, round(timeouts.connect_s)),
        "tcp_user_timeout": _ms(timeouts.tcp_s),
        "keepalives_idle": max(1, round(timeouts.tcp_s / 2)),
        "keepalives_interval": 1,
        "keepalives_count": max(1, round(timeouts.tcp_s / 2)),
        **arguments,
    }
    if timeouts.tells:
        limits = {
            "statement_timeout": timeouts.statement_s,
            "lock_timeout": timeouts.lock_s or _LOCK_S,
            "idle_in_transaction_session_timeout": timeouts.idle_s,
        }
        told = [f"-c {name}={_ms(seconds)}" for name, seconds in limits.items()]
        # If two have the same name, the later one counts.
        given["options"] = " ".join([*told, *filter(None, [given.get("options")])])
    return given


def _ms(seconds: float) -> int:
    return max(1, round(1000 * seconds))


def _within_limit(connection: BoundedConnection, waiting: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
    """Wait as the driver wants to, until the connection has waited long enough; the driver is told each time that
    nothing came.
    """
    before_s = connection.waited_s
    try:
        wanted = next(waiting)
        while True:
            ready = yield wanted
            if not ready:
                connection.waited_s += TICK_S
                if connection.waited_s > connection.deadline_s:
                    connection.pgconn.finish()
                    # A server that is alive gives up a statement earlier than this, by its own time-out. If earlier
                    # statements took some of the time, the last one may simply have had less than that.
                    given_up_s = min(_LATE * connection.statement_s, connection.deadline_s)
                    if connection.waited_s - before_s > given_up_s:
                        raise Unanswered(f"no answer within {connection.deadline_s:g} s")
                    raise DatabaseTooSlow(f"statement timeout: no end within {connection.deadline_s:g} s")
            wanted = waiting.send(ready)
    except StopIteration as end:
        result: T = end.value
        return result
