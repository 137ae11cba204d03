"""Rows written by single statements, without the unit of work of a session."""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import Insert, insert, inspect
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from registry.db.transactions import connection_of
from registry.db.types import Model


def append(session: Session, model: type[Model], *rows: dict[str, Any]) -> None:
    """Insert rows of which nobody needs the objects, which costs a third of adding these."""
    if rows:
        connection_of(session).execute(_plain_insert(model), list(rows))


def put(session: Session, row: Model) -> None:
    """Write a row now. A new one needs one statement, and none of a unit of work, which costs as much again.

    What a new row refers to is given by keys, and is there already. It is told its own key and stays outside the session:
    what is changed of it later is not written.
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
    """Insert a row unless one with its key is there, also when two processes try at once; say whether it did."""
    session.flush()
    statement = _insert(session, model, values).on_conflict_do_nothing()
    # The row count of such a statement means nothing on PostgreSQL; what it returns does.
    returning = statement.returning(*inspect(model).primary_key)
    return connection_of(session).execute(returning).first() is not None


def upsert(session: Session, model: type[Model], key: dict[str, Any], values: dict[str, Any]) -> None:
    """Insert a row, or give the row with this primary key these values."""
    session.flush()
    statement = _insert(session, model, {**key, **values})
    connection_of(session).execute(statement.on_conflict_do_update(index_elements=list(key), set_=values))


def _insert(session: Session, model: type[Model], values: dict[str, Any]) -> Any:
    """A statement of the database's own kind, which may say what is done where the row is there."""
    return (postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert)(model).values(
        values
    )
