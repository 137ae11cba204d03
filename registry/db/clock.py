"""The time by this server's clock, and by the database's, which is the same for all servers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Float, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.expression import FunctionElement


def utc_now() -> datetime:
    """Return the present moment by this server's clock, for records that are not compared with anything."""
    return datetime.now(UTC)


class db_epoch_s(FunctionElement[float]):  # noqa: N801 - it reads as the SQL function that it is
    """The database's own clock, in seconds since 1970: one clock for every process that holds a lease."""

    type = Float()
    inherit_cache = True


@compiles(db_epoch_s, "sqlite")
def _epoch_sqlite(element: Any, compiler: Any, **kw: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(db_epoch_s, "postgresql")
def _epoch_postgresql(element: Any, compiler: Any, **kw: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"


def db_now(session: Session) -> datetime:
    """Return the present moment by the database's clock, for what several servers compare: their own clocks may be
    minutes apart.
    """
    if session.get_bind().dialect.name == "sqlite":
        # SQLite runs in this process, and only counts milliseconds.
        return utc_now()
    return datetime.fromtimestamp(session.execute(select(db_epoch_s())).scalar_one(), UTC)
