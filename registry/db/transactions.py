"""Transactions: how one begins on each database, and how long it may take.

A write on SQLite begins with BEGIN IMMEDIATE, because a deferred one that reads first fails under concurrency instead
of waiting.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

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
