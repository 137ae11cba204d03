"""How a transaction begins on each database, and how long it may take; and rows written by single statements, without the
unit of work of a session.

A write on SQLite begins with BEGIN IMMEDIATE, because a deferred one that reads first fails under concurrency instead
of waiting.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cache
from typing import Any

from sqlalchemy import Connection, Insert, insert, inspect, text
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from registry.db.types import Model

#: A session keeps its connection under this name: asking it for one costs a fifth of a statement.
_CONNECTION = "connection"


def begin(connection: Connection, *, to_write: bool = False) -> None:
    """Begin the transaction of a connection on SQLite; on PostgreSQL the driver has done so.

    This isn't a listener to the engine's events: if there is any, each statement looks for others.
    """
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE" if to_write else "BEGIN")


def allow(connection: Connection, seconds: float) -> None:
    """Let a transaction that has begun take longer than usual on PostgreSQL, both in its statements and between
    them.
    """
    if connection.dialect.name == "postgresql":
        connection.connection.driver_connection.allow(seconds)  # type: ignore[union-attr]
        for limit in ("statement_timeout", "idle_in_transaction_session_timeout"):
            connection.execute(text(f"SET LOCAL {limit} = {round(seconds * 1000)}"))


def begin_session(
    session: Session, info: Mapping[str, Any], *, to_write: bool = False, within_s: float | None = None
) -> None:
    """Begin the transaction of a session, which gets `info` into its own; `within_s` is as for `allow`."""
    connection = session.connection()
    begin(connection, to_write=to_write)
    session.info.update(info)
    session.info[_CONNECTION] = connection
    if within_s is not None:
        allow(connection, within_s)


def connection_of(session: Session) -> Connection:
    """Return the connection of a session of `Database`, for statements that need no objects."""
    connection: Connection = session.info[_CONNECTION]
    return connection


def native_insert(dialect: str, model: type[Model]) -> Any:
    """Return the INSERT of a database into a table, which can say what to do if the row exists."""
    # The dialect that nobody uses here stays out: PostgreSQL's takes 0.03 s to import.
    return importlib.import_module(f"sqlalchemy.dialects.{dialect}").insert(model)


def append(session: Session, model: type[Model], *rows: dict[str, Any]) -> None:
    """Insert rows whose objects nobody needs: this costs a third of adding the objects."""
    if rows:
        connection_of(session).execute(_plain_insert(model), list(rows))


def put(session: Session, row: Model) -> None:
    """Write a row now. A new one needs only one statement, and no unit of work, which would cost as much again.

    A new row refers to others by keys, and those exist already. It gets its own key but stays outside the session:
    later changes to it are not written.
    """
    if not inspect(row).transient:
        session.flush()
        return
    columns = type(row).__table__.columns
    given = {key: value for key, value in row.__dict__.items() if key in columns}
    done = connection_of(session).execute(_plain_insert(type(row)), given)
    for column, value in zip(type(row).__table__.primary_key, done.inserted_primary_key or (), strict=True):
        set_committed_value(row, column.key, value)


@cache
def _plain_insert(model: type[Model]) -> Insert:
    return insert(model)


def insert_if_new(session: Session, model: type[Model], **values: Any) -> bool:
    """Insert a row unless one with its key exists, also if two processes try at once; say whether it did."""
    session.flush()
    connection = connection_of(session)
    # On PostgreSQL the row count of such a statement means nothing; what it returns does.
    statement = _insert_if_new(connection.dialect.name, model, returning=True)
    return connection.execute(statement, values).first() is not None


@cache
def _insert_if_new(dialect: str, model: type[Model], *, returning: bool) -> Any:
    """Made once: building a statement with the values in it costs as much as running it."""
    made = native_insert(dialect, model).on_conflict_do_nothing()
    return made.returning(*inspect(model).primary_key) if returning else made


def append_new(session: Session, model: type[Model], *rows: dict[str, Any]) -> None:
    """Insert those of these rows whose keys don't exist yet."""
    if rows:
        session.flush()
        connection = connection_of(session)
        connection.execute(_insert_if_new(connection.dialect.name, model, returning=False), list(rows))


def upsert(session: Session, model: type[Model], key: dict[str, Any], values: dict[str, Any]) -> None:
    """Insert a row, or give the row with this primary key these values, which may be expressions."""
    session.flush()
    connection = connection_of(session)
    statement = native_insert(connection.dialect.name, model).values({**key, **values})
    connection.execute(statement.on_conflict_do_update(index_elements=list(key), set_=values))
