"""The database: engine, transactions, the clock, and the schema's version.

`Database.read()` and `Database.write()` are the only two ways to a session. A write on SQLite begins with
BEGIN IMMEDIATE, since a deferred one that reads first fails under concurrency instead of waiting.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Connection,
    DateTime,
    Dialect,
    Engine,
    Float,
    Insert,
    MetaData,
    insert,
    inspect,
    select,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import (
    DatabaseError,
    DataError,
    InterfaceError,
    InternalError,
    OperationalError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.orm.attributes import set_committed_value
from sqlalchemy.sql.expression import FunctionElement
from sqlalchemy.types import TypeDecorator

from registry.db.causes import Causes
from registry.db.engine import make_engine
from registry.deadlines import CircuitBreaker, NoAnswer, Timeouts
from registry.errors import Invalid, Unavailable

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

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse a moment without a zone."""
        if value is not None and value.tzinfo is None:
            raise ValueError("a moment without a time zone")
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """SQLite forgets zones; what it returns is UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def utc_now() -> datetime:
    """Return the present moment by this server's clock, for records that nothing is compared with."""
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
    """Return the present moment by the database's clock, for what several servers compare: theirs may be minutes apart."""
    if session.get_bind().dialect.name == "sqlite":
        # It runs in this process, and counts by the millisecond only.
        return utc_now()
    return datetime.fromtimestamp(session.execute(select(db_epoch_s())).scalar_one(), UTC)


def migrations_folder() -> Path:
    """Where the migrations lie: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "_migrations"
    return packaged if packaged.is_dir() else package.parent / "migrations"


def head_revision() -> str:
    """The newest revision that this code knows, read from file names so that Alembic need not be imported."""
    numbers = [
        match[1]
        for path in (migrations_folder() / "versions").glob("*.py")
        if (match := re.match(r"(\d{4})_", path.name))
    ]
    return max(numbers)


class Database:
    """One database, by URL. Holds the engine; gives sessions."""

    def __init__(self, url: str, timeouts: Timeouts | None = None, *, logs_causes: bool = True) -> None:
        """A command whose errors are one line says `logs_causes=False`: it has no log."""
        self.url = url
        self.timeouts = timeouts or Timeouts()
        self.breaker = CircuitBreaker("the database", Unavailable)
        self._causes = Causes(logs=logs_causes)
        #: What each session finds in its `info`, put there by the rooms that look for it.
        self.session_info: dict[str, Any] = {}
        self._on_close: list[Callable[[], None]] = []
        self._is_full = False

    @cached_property
    def engine(self) -> Engine:
        """The engine, made on first use. Raises Invalid for a URL of another kind of database."""
        return make_engine(self.url, self.timeouts)

    @cached_property
    def _reader(self) -> Engine:
        if self.engine.dialect.name != "postgresql":
            return self.engine
        # Else each statement of a session would see a state of its own: an alias, and then a version that it left.
        return self.engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    @contextmanager
    def read(self, *, within_s: float | None = None) -> Iterator[Session]:
        """A session that sees one state of the database and changes nothing.

        PostgreSQL may take `within_s` for its statements, where that is more than usual. Raises Unavailable beyond it.
        """
        with self._explained(), self.breaker.asking(), Session(self._reader, expire_on_commit=False) as session:
            _begin_in(session, self.session_info, within_s=within_s)
            yield session

    @contextmanager
    def write(self, *, within_s: float | None = None) -> Iterator[Session]:
        """A session that commits at the end of the block, and rolls back if anything is raised.

        As `read` for the rest. Where it raises Unavailable for a commit, that may have been done.
        """
        with (
            self._explained(),
            self.breaker.asking(),
            Session(self.engine, expire_on_commit=False) as session,
            session.begin(),
        ):
            _begin_in(session, self.session_info, to_write=True, within_s=within_s)
            yield session

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn a driver's "full", "can't connect" and "out of range" into errors that say what to do."""
        began = time.monotonic()
        try:
            with self._noted(began):
                yield
        except PoolTimeoutError as error:
            raise Unavailable("the database has more to do than it can; try again shortly") from error
        except DataError as error:
            raise Invalid(
                "a value is too long or out of the range that the database keeps; send a smaller one"
            ) from error
        except OverflowError as error:
            # What SQLite's driver says to an integer of more than 64 bits.
            raise Invalid("a number is out of the range that the database keeps; send a smaller one") from error
        except DatabaseError as error:
            explained = _explain(str(error.orig)) if _is_outside(error) else None
            if explained is None:
                raise
            self._is_full |= _says_full(str(error.orig))
            raise explained from error
        except InterfaceError as error:
            raise Unavailable("the database can't be reached; check that it runs, then try again") from error

    @contextmanager
    def _noted(self, began: float) -> Iterator[None]:
        """Log what the driver says where that becomes Unavailable, or has become so: it is not told to whoever asks."""
        try:
            yield
        except (PoolTimeoutError, InterfaceError) as error:
            self._causes.note(error, took_s=time.monotonic() - began)
            raise
        except DatabaseError as error:
            if _is_outside(error) and _explain(str(error.orig)):
                self._causes.note(error, took_s=time.monotonic() - began)
            raise
        except Unavailable as error:
            if isinstance(error.__cause__, NoAnswer | DatabaseError):
                self._causes.note(error.__cause__, took_s=time.monotonic() - began)
            raise

    def require_room(self) -> None:
        """Raise Unavailable where the disk of the database is full: the last that was written failed, and does again."""
        if self._is_full:
            with self.write() as session:
                session.execute(text("UPDATE alembic_version SET version_num = version_num"))
            self._is_full = False

    def close(self) -> None:
        """Close all connections: those in use as soon as their session ends. The next session opens one."""
        self.engine.dispose()
        for call in self._on_close:
            call()

    def on_close(self, call: Callable[[], None]) -> None:
        """Close with this database what else is connected to it."""
        self._on_close.append(call)

    def revision(self) -> str | None:
        """The revision of the schema as it is, or None for an empty database."""
        with self._explained(), self.breaker.asking(), self.engine.connect() as connection:
            try:
                return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
            except (OperationalError, ProgrammingError) as error:
                # "No such table" is an operational error of SQLite, and a programming error of PostgreSQL.
                if "no such table" in str(error.orig) or getattr(error.orig, "sqlstate", None) == "42P01":
                    return None
                raise

    def upgrade(self) -> None:
        """Bring the schema to the newest revision; does nothing where it is there already.

        Raises Unavailable where the schema is newer than this code, or where somebody holds a table for longer than a
        migration on PostgreSQL waits, which `Timeouts` says.
        """
        head = head_revision()
        present = self.revision()
        if present == head:
            return
        if present is not None and present > head:
            raise _too_new(present, head)
        with self._explained(), self.breaker.asking():
            self._run_migrations()

    def _run_migrations(self) -> None:
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(migrations_folder()))
        config.attributes["engine"] = self.engine
        config.attributes["within_s"] = self.timeouts.migration_s
        config.attributes["lock_timeout_s"] = self.timeouts.migration_lock_s
        command.upgrade(config, "head")

    def require_current(self, *, or_newer: bool = False) -> None:
        """Raise Unavailable, with the command to run, unless the schema is the one that this code knows.

        With `or_newer` a later one will do: migrations leave the release before able to go on, until it is replaced.
        """
        present, head = self.revision(), head_revision()
        newer = present is not None and present > head
        if newer and not or_newer:
            raise _too_new(str(present), head)
        if present != head and not newer:
            raise Unavailable(
                f"the database is at revision {present or 'none'}, this program needs {head}; run: adapter-registry db upgrade"
            )


def begin(connection: Connection, *, to_write: bool = False) -> None:
    """Begin the transaction of a connection on SQLite; on PostgreSQL the driver has.

    Not by a listener to the engine's events: where there is one, of whatever kind, each statement looks for others.
    """
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE" if to_write else "BEGIN")


def _too_new(present: str, head: str) -> Unavailable:
    return Unavailable(
        f"the database is at revision {present}, newer than {head} of this program; "
        "upgrade with: pip install --upgrade adapterctl"
    )


def _begin_in(
    session: Session, info: Mapping[str, Any], *, to_write: bool = False, within_s: float | None = None
) -> None:
    connection = session.connection()
    begin(connection, to_write=to_write)
    session.info.update(info)
    session.info[_CONNECTION] = connection
    if within_s is not None:
        allow(connection, within_s)


def allow(connection: Connection, seconds: float) -> None:
    """Let a transaction that has begun take longer than usual on PostgreSQL: its statements, and what is between them."""
    if connection.dialect.name == "postgresql":
        connection.connection.driver_connection.allow(seconds)  # type: ignore[union-attr]
        for limit in ("statement_timeout", "idle_in_transaction_session_timeout"):
            connection.execute(text(f"SET LOCAL {limit} = {round(seconds * 1000)}"))


#: Under this name a session keeps its connection: asking it for one costs a fifth of a statement.
_CONNECTION = "connection"


def connection_of(session: Session) -> Connection:
    """Return the connection of a session of `Database`, for statements that need no objects."""
    connection: Connection = session.info[_CONNECTION]
    return connection


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


#: Held shared by whoever is about to name blobs that are stored, and alone by whoever removes blobs.
_BLOBS_LOCK = 0x61646170626C6F62


def hold_blobs(session: Session, *, alone: bool = False) -> None:
    """Until the transaction ends, no blob is removed; with `alone`, nobody begins to count on one either.

    On SQLite a transaction that writes is alone already.
    """
    if session.get_bind().dialect.name == "postgresql":
        function = "pg_advisory_xact_lock" if alone else "pg_advisory_xact_lock_shared"
        session.execute(text(f"SELECT {function}(:key)"), {"key": _BLOBS_LOCK})


def _says_full(reason: str) -> bool:
    """Whether a driver says that the disk of the database is full."""
    return "is full" in reason or "No space left" in reason


def _is_outside(error: DatabaseError) -> bool:
    """Whether an error may be the database's. Faults of ours or of a value, such as IntegrityError, are its children."""
    return type(error) in (OperationalError, InternalError, DatabaseError)


#: What drivers say of a connection that was open.
_ENDED = ("closed the connection", "connection is closed", "terminating connection", "reset by peer")


def _explain(reason: str) -> Unavailable | None:
    if _says_full(reason):
        return Unavailable("the disk that holds the database is full; free some space, then try again")
    if "readonly" in reason or "unable to open" in reason:
        return Unavailable(f"the database can't be opened for writing ({reason}); check the folder and its permissions")
    if "not a database" in reason or "malformed" in reason:
        return Unavailable("the database's file is no database of ours, or is damaged; restore it from a backup")
    if "locked" in reason or "lock timeout" in reason:
        return Unavailable("the database is busy with another program's changes; try again shortly")
    if "statement timeout" in reason:
        return Unavailable("the database took too long for this; ask for less, or try again shortly")
    if "idle-in-transaction" in reason:
        return Unavailable("this server stood still amid a transaction, and the database took that back; try again")
    if any(word in reason for word in ("too many clients", "too many connections", "connection slots")):
        return Unavailable(
            "the database has no connection left; raise its max_connections or lower REGISTRY_DATABASE_CONNECTIONS, "
            "or try again shortly"
        )
    if "connection failed" not in reason and any(word in reason for word in _ENDED):
        # It was there when the transaction began. Where it has gone away, whoever comes next is told so.
        return Unavailable("the database ended the connection amid a transaction; try again shortly")
    if any(
        word in reason for word in ("connect", "no answer", "terminating", "closed", "starting up", "shutting down")
    ):
        return Unavailable("the database can't be reached; check that it runs, then try again")
    return None
