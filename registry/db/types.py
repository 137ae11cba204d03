"""The root of all tables, and moments: the column for them, and the time by this server's clock and by the database's,
which is the same for all servers.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DateTime, Dialect, Float, MetaData, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.sql.expression import FunctionElement
from sqlalchemy.types import TypeDecorator

_CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


class Model(DeclarativeBase):
    """The root of all tables; constraints have names from the first migration on."""

    metadata = MetaData(naming_convention=_CONVENTION)


class UtcDateTime(TypeDecorator[datetime]):
    """A moment, stored in UTC and always returned with its zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    @property
    def python_type(self) -> type[datetime]:
        """What cursors of pages are read as; SQLAlchemy 2.1 doesn't ask the type that is decorated."""
        return datetime

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse a time without a time zone."""
        if value is not None and value.tzinfo is None:
            raise ValueError("a time without a time zone")
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """SQLite forgets zones; what it returns is UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


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


class seconds_between(FunctionElement[float]):  # noqa: N801 - as above
    """How many seconds lie between two moments that are stored; below 0 if the second is the earlier one."""

    type = Float()
    inherit_cache = True


@compiles(seconds_between, "sqlite")
def _between_sqlite(element: Any, compiler: Any, **kw: Any) -> str:
    since, until = (compiler.process(one, **kw) for one in element.clauses)
    return f"((julianday({until}) - julianday({since})) * 86400.0)"


@compiles(seconds_between, "postgresql")
def _between_postgresql(element: Any, compiler: Any, **kw: Any) -> str:
    since, until = (compiler.process(one, **kw) for one in element.clauses)
    return f"extract(epoch from ({until} - {since}))::double precision"


def db_now(session: Session) -> datetime:
    """Return the present moment by the database's clock, for what several servers compare: their own clocks may be
    minutes apart.
    """
    if session.get_bind().dialect.name == "sqlite":
        # SQLite runs in this process, and only counts milliseconds.
        return utc_now()
    return datetime.fromtimestamp(session.execute(select(db_epoch_s())).scalar_one(), UTC)
