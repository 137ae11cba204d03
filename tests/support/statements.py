"""Which statements a database gets, and how it runs them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, event

from registry.db.database import Database


class Statement(NamedTuple):
    """One statement as the driver gets it."""

    sql: str
    parameters: Any


@contextmanager
def sent(through: Database | Connection) -> Iterator[list[Statement]]:
    """The statements that are sent during the block, without those that begin a transaction."""
    target: Engine | Connection = through.engine if isinstance(through, Database) else through
    seen: list[Statement] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if not statement.startswith("BEGIN"):
            seen.append(Statement(statement, parameters))

    event.listen(target, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(target, "before_cursor_execute", note)


def plan_of(db: Database, statement: Statement) -> list[str]:
    """How the database would run a statement, line by line."""
    explain = "EXPLAIN QUERY PLAN " if db.engine.dialect.name == "sqlite" else "EXPLAIN "
    with db.engine.connect() as connection:
        rows = connection.exec_driver_sql(explain + statement.sql, statement.parameters).all()
    return [str(row[-1]) for row in rows]
