"""Single look-ups at the lowest cost: one prepared SELECT on a connection that is kept for nothing else.

A session costs more than the query that it runs, so the route that everybody waits for goes past it. Nothing is
cached: each look-up sees what was committed before it began, by whichever process.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy import ClauseElement, Engine
from sqlalchemy.sql.compiler import SQLCompiler

from registry.db.database import Database

if TYPE_CHECKING:
    import psycopg

#: Connections that one process keeps to PostgreSQL; with more, its backends only take the processor from each other.
_CONNECTIONS = 4
#: How long PostgreSQL may take. A look-up by key takes less than a millisecond, unless a table is locked.
_STATEMENT_S = 1.0
#: How long it is waited for, and for one of the connections: it may be stopped.
_DEADLINE_S = 1.5
_CONNECT_S = 2.0

Row = tuple[Any, ...]
C = TypeVar("C")


class _Prepared(NamedTuple):
    """A statement as its driver takes it."""

    sql: str
    constants: Mapping[str, Any]
    #: The order of the parameters, where the driver takes them by place.
    places: tuple[str, ...]


class _Reader(Protocol):
    async def first(self, prepared: _Prepared, values: Mapping[str, Any]) -> Row | None: ...

    def close(self) -> None: ...


class Lookups:
    """Runs SELECTs of at most one row. Nothing is connected before the first look-up."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._prepared: dict[ClauseElement, _Prepared] = {}

    async def first(self, query: ClauseElement, **values: Any) -> Row | None:
        """Return the row that `query` finds with these values of its parameters.

        None where there is none, and where the database does not answer at once: then the ordinary way, which waits and
        explains, is to be taken. The event loop is never blocked meanwhile.
        """
        prepared = self._prepared.get(query)
        if prepared is None:
            compiled = query.compile(dialect=self._db.engine.dialect)
            assert isinstance(compiled, SQLCompiler)
            prepared = _Prepared(str(compiled), compiled.params, tuple(compiled.positiontup or ()))
            self._prepared[query] = prepared
        return await self._reader.first(prepared, values)

    @cached_property
    def _reader(self) -> _Reader:
        engine = self._db.engine
        reader: _Reader = _Postgres(engine, self._db) if engine.dialect.name == "postgresql" else _Sqlite(engine)
        self._db.on_close(reader.close)
        return reader


class _Sqlite:
    """In the event loop's own thread: a look-up takes some microseconds, a step to another thread ten times as many."""

    def __init__(self, engine: Engine) -> None:
        self._path = str(engine.url.database)
        self._idle: list[sqlite3.Connection] = []

    async def first(self, prepared: _Prepared, values: Mapping[str, Any]) -> Row | None:
        given = {**prepared.constants, **values}
        try:
            connection = _popped(self._idle) or self._open()
            # To the end: a statement that has rows left would hold on to the state of the database that it saw.
            rows: list[Row] = connection.execute(prepared.sql, [given[name] for name in prepared.places]).fetchall()
        except sqlite3.Error:
            # Locked, gone or damaged. This connection, if there is one, is not used again.
            return None
        self._idle.append(connection)
        return rows[0] if rows else None

    def _open(self) -> sqlite3.Connection:
        # Readers wait for nobody in WAL mode; where they would have to, another thread shall do it.
        return sqlite3.connect(self._path, timeout=0, isolation_level=None, check_same_thread=False)

    def close(self) -> None:
        while connection := _popped(self._idle):
            connection.close()


class _Postgres:
    """Without threads: while one look-up waits for the server, the loop begins the next."""

    def __init__(self, engine: Engine, db: Database) -> None:
        _, self._arguments = engine.dialect.create_connect_args(engine.url)
        # SQLAlchemy's own adapters of types; text needs none.
        self._arguments.pop("context", None)
        self._silence = db.silence
        self._patience = replace(db.patience, connect_s=_CONNECT_S, tcp_s=_CONNECT_S, statement_s=_STATEMENT_S)
        # A server process has one loop; a process that embeds the application may have one a client.
        self._pools: WeakKeyDictionary[asyncio.AbstractEventLoop, _Pool] = WeakKeyDictionary()

    async def first(self, prepared: _Prepared, values: Mapping[str, Any]) -> Row | None:
        import psycopg

        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop) or self._pools.setdefault(loop, _Pool())
        if not await pool.enter(_DEADLINE_S):
            return None
        try:
            # Each of those that waited for a connection would else find out by itself.
            if self._silence.is_known:
                return None
            connection = _popped(pool.idle)
            sound = False
            try:
                connection = connection or await self._open()
                cursor = await connection.execute(prepared.sql.encode(), {**prepared.constants, **values})
                row = await cursor.fetchone()
                sound = True
                return row
            except psycopg.Error:
                # Locked, gone, stopped or restarted.
                return None
            finally:
                if sound and connection is not None:
                    pool.idle.append(connection)
                elif connection is not None:
                    connection.pgconn.finish()
        finally:
            pool.room.release()

    async def _open(self) -> psycopg.AsyncConnection[Row]:
        from registry.db.postgres import PatientAsyncConnection, parameters

        # Each statement is a transaction of its own, and is prepared at its first use.
        connection = await PatientAsyncConnection.connect(
            **parameters(self._patience, self._arguments), autocommit=True, prepare_threshold=0
        )
        connection.deadline_s = _DEADLINE_S
        return connection

    def close(self) -> None:
        for pool in list(self._pools.values()):
            pool.close()


class _Pool:
    """The connections of one event loop."""

    def __init__(self) -> None:
        self.idle: list[psycopg.AsyncConnection[Row]] = []
        self.room = asyncio.Semaphore(_CONNECTIONS)

    async def enter(self, within_s: float) -> bool:
        """Wait for a connection's turn; say whether it came."""
        if not self.room.locked():
            return await self.room.acquire()
        try:
            return await asyncio.wait_for(self.room.acquire(), within_s)
        except TimeoutError:
            return False

    def close(self) -> None:
        while connection := _popped(self.idle):
            # Their own way to close needs the loop, which may be gone.
            connection.pgconn.finish()

    # The pool of a loop goes with the loop.
    __del__ = close


def _popped(idle: list[C]) -> C | None:
    """Take a connection, also when another thread takes one at the same moment."""
    try:
        return idle.pop()
    except IndexError:
        return None
