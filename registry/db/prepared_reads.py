"""Single rows at the lowest cost: one prepared SELECT, on connections and in threads that serve only this.

A session costs several times as much as the query that it runs (RESULTS.md, "resolve by alias"). Nothing is cached:
each read sees what any process committed before it began.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, NamedTuple

from sqlalchemy import ClauseElement
from sqlalchemy.sql.compiler import SQLCompiler

from registry.db.database import Database
from registry.pools import Pool

#: Threads, and so connections, of one process; with more, PostgreSQL's backends only compete for the processor.
_THREADS = 4
#: How long the database may take. A read by key takes less than a millisecond, unless a table is locked.
_STATEMENT_S = 1.0
#: How long to wait for the database, and for one of the threads: the database may be stopped.
_DEADLINE_S = 1.5
_CONNECT_S = 2.0
_POOL = Pool(
    "prepared reads",
    waits="`resolve` on PostgreSQL; 1.5 s, then as all other requests",
    at_once=str(_THREADS),
    item="one row by key, for which PostgreSQL may take 1 s",
    share="none is needed: an item takes less than 1 ms, and a connection has one at a time",
)

Row = tuple[Any, ...]


class _Prepared(NamedTuple):
    """A statement as its driver takes it."""

    sql: Any
    constants: Mapping[str, Any]
    #: The order of the parameters, if the driver takes them by position.
    places: tuple[str, ...]

    def with_values(self, values: Mapping[str, Any]) -> Any:
        """Its parameters as the driver takes them."""
        given = {**self.constants, **values}
        return [given[name] for name in self.places] if self.places else given


class PreparedReads:
    """Runs SELECTs of at most one row. Nothing is connected before the first one."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._prepared: dict[ClauseElement, _Prepared] = {}
        #: None once they were closed.
        self._idle: list[Any] | None = []
        self._changing = threading.Lock()
        self._threads = _POOL.executor(_THREADS)
        db.on_close(self.close)

    async def first(self, query: ClauseElement, **values: Any) -> Row | None:
        """Return the row that `query` finds with these values of its parameters.

        None if there is none, or if the database does not answer at once: then the caller has to take the ordinary way,
        which waits and explains.
        """
        prepared = self._prepared.get(query) or self._prepare(query)
        if self._is_sqlite:
            # A read takes some microseconds, a switch to another thread ten times as long.
            return self._read(prepared, values)
        read = partial(self._read, prepared, values, began=time.monotonic())
        return await asyncio.get_running_loop().run_in_executor(self._threads, read)

    def close(self) -> None:
        """Close all connections; those in use, or opened by a later read, are closed when their read ends."""
        with self._changing:
            idle, self._idle = self._idle, None
        for connection in idle or ():
            connection.close()

    def _prepare(self, query: ClauseElement) -> _Prepared:
        compiled = query.compile(dialect=self._db.engine.dialect)
        assert isinstance(compiled, SQLCompiler)
        # PostgreSQL's driver wants text of a literal type or bytes, so that nobody pastes values into it.
        sql = str(compiled) if self._is_sqlite else str(compiled).encode()
        prepared = self._prepared[query] = _Prepared(sql, compiled.params, tuple(compiled.positiontup or ()))
        return prepared

    @cached_property
    def _is_sqlite(self) -> bool:
        return self._db.engine.dialect.name == "sqlite"

    def _read(self, prepared: _Prepared, values: Mapping[str, Any], *, began: float | None = None) -> Row | None:
        # Otherwise each read that waits for a thread would find out by itself.
        if self._db.breaker.is_open or (began is not None and time.monotonic() - began > _DEADLINE_S):
            return None
        connection, is_usable = None, False
        try:
            connection = self._take() or self._open()
            # Read to the end: a statement of SQLite with rows left would keep the state of the database that it saw.
            rows: list[Row] = connection.execute(prepared.sql, prepared.with_values(values)).fetchall()
            is_usable = True
        except self._db.engine.dialect.loaded_dbapi.Error:
            # The database is locked, gone, stopped, restarted or damaged.
            return None
        finally:
            if connection is not None and not (is_usable and self._keep(connection)):
                connection.close()
        return rows[0] if rows else None

    def _take(self) -> Any:
        with self._changing:
            return self._idle.pop() if self._idle else None

    def _keep(self, connection: Any) -> bool:
        """Keep a connection for the next read; False once all were closed."""
        with self._changing:
            if self._idle is None:
                return False
            self._idle.append(connection)
            return True

    def _open(self) -> Any:
        engine = self._db.engine
        if self._is_sqlite:
            # In WAL mode readers don't wait; if they would have to, another thread should do it.
            path = str(engine.url.database)
            return sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        from registry.db.postgres import BoundedConnection

        _, arguments = engine.dialect.create_connect_args(engine.url)
        timeouts = replace(
            self._db.timeouts,
            connect_s=_CONNECT_S,
            tcp_s=_CONNECT_S,
            statement_s=_STATEMENT_S,
            deadline_s=_DEADLINE_S,
        )
        connection = BoundedConnection.open(timeouts, arguments)
        # Each statement is a transaction of its own, and is prepared at its first use.
        connection.autocommit, connection.prepare_threshold = True, 0
        return connection
