"""SQLAlchemy's engine for each kind of database, and how its connections are set up.

>>> make_engine("postgresql://registry@db/registry", Timeouts()).dialect.driver
'psycopg'
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, InvalidatePoolError, NoSuchModuleError
from sqlalchemy.pool import ConnectionPoolEntry, NullPool, Pool, QueuePool

from registry.deadlines import NoAnswer, Timeouts
from registry.errors import Invalid

#: How long to wait for a connection of this process, unless settings say otherwise, in seconds.
_POOL_S, _SQLITE_POOL_S = 3.0, 30.0
#: How many connections stay open while nobody uses them.
_KEPT = 5
#: How long an SQLite transaction waits for others that write, unless settings say otherwise, in seconds.
_SQLITE_LOCK_S = 60.0


def make_engine(url: str, timeouts: Timeouts) -> Engine:
    """Return an engine for a database of ours; nothing is connected. Raises Invalid for a URL of another kind."""
    parsed = _parsed(url)
    return _sqlite(parsed, timeouts) if parsed.get_backend_name() == "sqlite" else _postgresql(parsed, timeouts)


class _ClosingPool(QueuePool):
    """A pool that closes connections that come back after it was disposed, also those that were being opened then or later.

    SQLAlchemy's own pool keeps them, though nobody asks for them any more and nothing ever closes them.
    """

    _is_disposed = False

    def dispose(self) -> None:
        self._is_disposed = True
        super().dispose()

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        super()._do_return_conn(record)
        # Checked afterwards: if the pool is disposed in between, it finds this one among those that are kept.
        if self._is_disposed:
            super().dispose()

    def recreate(self) -> Pool:  # type: ignore[override]  # an engine takes any pool
        # What a thread still asks of a database that was closed is on a connection that goes with its session.
        return NullPool(
            self._creator,
            echo=self.echo,
            logging_name=self._orig_logging_name,
            reset_on_return=self._reset_on_return,
            _dispatch=self.dispatch,
            dialect=self._dialect,
        )


def _postgresql(url: URL, timeouts: Timeouts) -> Engine:
    import psycopg

    from registry.db.postgres import BoundedConnection

    def connect() -> BoundedConnection:
        _, arguments = engine.dialect.create_connect_args(url)
        return BoundedConnection.open(timeouts, arguments)

    # The parameters of a statement, such as digests of tokens, don't belong in logs and messages.
    engine: Engine = create_engine(url, creator=connect, hide_parameters=True, **_pool(timeouts, _POOL_S))

    # SQLAlchemy's own `pool_pre_ping` connects again if there is no answer, and so waits twice.
    @event.listens_for(engine, "checkout")
    def _ping(connection: BoundedConnection, record: Any, _proxy: Any) -> None:
        if record.fresh:
            return
        try:
            connection.ping(timeouts.connect_s)
        except NoAnswer:
            raise
        except psycopg.Error as error:
            # The server was restarted: the other connections of the pool can't be used any more either.
            raise InvalidatePoolError from error

    return engine


def _pool(timeouts: Timeouts, usual_s: float) -> dict[str, Any]:
    """The pool's settings for SQLAlchemy. Its own limit counts the connections that it opens in addition to those that
    it keeps.
    """
    kept = min(_KEPT, timeouts.connections)
    return {
        "poolclass": _ClosingPool,
        "pool_size": kept,
        "max_overflow": timeouts.connections - kept,
        "pool_timeout": timeouts.pool_s or usual_s,
    }


def sqlite_lock_s(timeouts: Timeouts) -> float:
    """How long a write waits for another one on SQLite, in seconds."""
    return timeouts.lock_s or _SQLITE_LOCK_S


def _sqlite(url: URL, timeouts: Timeouts) -> Engine:
    lock_s = sqlite_lock_s(timeouts)
    engine = create_engine(
        url,
        # As psycopg does: what is given to a statement goes by name.
        paramstyle="named",
        connect_args={"timeout": lock_s},
        hide_parameters=True,
        **_pool(timeouts, _SQLITE_POOL_S),
    )

    @event.listens_for(engine, "do_connect")
    def _make_private(_dialect: Any, _record: Any, arguments: list[Any], _named: dict[str, Any]) -> None:
        # It contains digests of tokens, so only its owner can read a new file; SQLite gives the files next to it the
        # same mode.
        with suppress(OSError):
            if not arguments[0].startswith("file:"):
                os.close(os.open(arguments[0], os.O_CREAT | os.O_EXCL, 0o600))

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        # The driver's own BEGIN is switched off; `registry.db.transactions.begin` sends ours, of the right kind.
        connection.isolation_level = None
        cursor = connection.cursor()
        # FULL: otherwise a power cut could undo what was acknowledged, and a version's number would be given to other
        # bytes.
        _when_unlocked(lambda: cursor.execute("PRAGMA journal_mode=WAL"), lock_s)
        for pragma in ("synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    return engine


def _when_unlocked(call: Callable[[], object], wait_s: float) -> None:
    """Make a call for which SQLite itself does not wait for others: the first of several processes that open a new file
    sets its mode.
    """
    deadline = time.monotonic() + wait_s
    while True:
        try:
            call()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _parsed(text_url: str) -> URL:
    """Return a database's URL with the driver that is installed. Raises Invalid for any other kind of URL."""
    try:
        url = make_url(text_url)
        backend = url.get_backend_name()
    except (ArgumentError, NoSuchModuleError):
        backend = ""
    if backend == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    # Two threads would have two databases in memory, and neither outlives the process.
    if backend == "sqlite" and url.database and url.database != ":memory:":
        return url
    raise Invalid(
        "the database's URL is neither postgresql://user@host/name nor sqlite:////folder/file; set one of them",
        param="REGISTRY_DATABASE_URL",
    )
