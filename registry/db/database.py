"""One database: its engine, its transactions, and the version of its schema.

`Database.read()` and `Database.write()` are the only two ways to get a session.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path
from threading import Lock, local
from typing import Any, TypeVar

from sqlalchemy import ClauseElement, Connection, Engine, text
from sqlalchemy.exc import DatabaseError, OperationalError, ProgrammingError, SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

from registry.db.engine import make_engine, sqlite_lock_s
from registry.db.errors import Causes, explain, says_full
from registry.db.statements import begin_session
from registry.deadlines import CircuitBreaker, NoAnswer, Timeouts
from registry.errors import Unavailable
from registry.pools import Occupancy, Pool

T = TypeVar("T")

#: The key under which a session that several reads share has the answers to what `once` was asked.
_ANSWERS = "answers"

Pool(
    "writes to SQLite",
    waits="whoever changes something, on SQLite; 60 s",
    at_once="1",
    item="one transaction, which neither reads files nor plans",
    share="none is needed: views have had their turn, and come here in the order in which they ask",
)


class Database:
    """One database, by URL. Holds the engine; gives sessions."""

    def __init__(self, url: str, timeouts: Timeouts | None = None, *, logs_causes: bool = True) -> None:
        """A command whose errors are one line passes `logs_causes=False`: it has no log."""
        self.url = url
        self.timeouts = timeouts or Timeouts()
        self.breaker = CircuitBreaker("the database", Unavailable)
        self._causes = Causes(logs=logs_causes)
        #: What each session finds in its `info`, put there by the rooms that look for it.
        self.session_info: dict[str, Any] = {}
        self._sql: dict[ClauseElement, tuple[str, Mapping[str, Any]]] = {}
        self._is_full = False
        self._engine: Engine | None = None
        self._making = Lock()
        #: Held by the write of this process, on SQLite. Its own lock is looked at again and again by those that wait, up to
        #: a tenth of a second apart, so whoever waited longest might miss each moment in which it is free.
        self._writing = Lock()
        #: By thread, the session that all reads of a block share.
        self._shared = local()

    @property
    def engine(self) -> Engine:
        """The engine, made on first use. Raises Invalid for a URL of another kind of database."""
        if self._engine is None:
            # If several threads come first, a cached property makes one for each and loses all but one, with their
            # connections.
            with self._making:
                self._engine = self._engine or make_engine(self.url, self.timeouts)
        return self._engine

    @property
    def occupancy(self) -> Occupancy:
        """How many connections are used. Nobody counts those who wait for one."""
        pool = self.engine.pool
        busy = pool.checkedout() if isinstance(pool, QueuePool) else 0
        return Occupancy(busy, 0, self.timeouts.connections)

    @cached_property
    def _reader(self) -> Engine:
        if self.is_sqlite:
            return self.engine
        # Otherwise each statement of a session would see its own state: an alias, and then a version that it no longer
        # names.
        return self.engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    @contextmanager
    def read(self, *, within_s: float | None = None) -> Iterator[Session]:
        """A session that sees one state of the database and changes nothing.

        PostgreSQL may take `within_s` for its statements, if that is more than usual. Raises Unavailable beyond that.
        """
        shared: Session | None = getattr(self._shared, "session", None)
        if shared is not None and within_s is None:
            yield shared
            return
        with self._explained(), self.breaker.asking(), Session(self._reader, expire_on_commit=False) as session:
            begin_session(session, self.session_info, within_s=within_s)
            yield session

    @contextmanager
    def one_state(self) -> Iterator[None]:
        """Let all reads of this thread during the block see one state of the database, in one transaction: what several services
        look up is asked `once`. Nothing is written meanwhile, and no file is read.
        """
        with self.read() as session:
            if getattr(self._shared, "session", None) is session:
                # Within another such block.
                yield
                return
            session.info[_ANSWERS] = {}
            self._shared.session = session
            try:
                yield
            finally:
                self._shared.session = None

    @contextmanager
    def write(self, *, within_s: float | None = None) -> Iterator[Session]:
        """A session that commits at the end of the block, and rolls back if anything is raised.

        Otherwise like `read`. If it raises Unavailable for a commit, the commit may have been done.
        """
        with (
            self._explained(),
            self._turn_to_write(),
            self.breaker.asking(),
            Session(self.engine, expire_on_commit=False) as session,
            session.begin(),
        ):
            begin_session(session, self.session_info, to_write=True, within_s=within_s)
            yield session

    def row(self, query: ClauseElement, **values: Any) -> tuple[Any, ...] | None:
        """Return the first row, in a transaction of its own and without a session, which costs several times as much as a
        small query does.

        Also None if the driver fails, or if SQLite would have to wait for anybody: whoever asks again in a session waits,
        and is told why. Raises Unavailable.
        """
        sql, constants = self._sql.get(query) or self._compile(query)
        # An open connection: a new one waits for whoever holds the file, and one that is in use for its user.
        if self.is_sqlite and not (isinstance(pool := self.engine.pool, QueuePool) and pool.checkedin()):
            return None
        try:
            with self._explained(), self.breaker.asking(), self._alone() as connection:
                # To the end: a statement of SQLite with rows left would keep the state of the database that it saw.
                rows = connection.execute(sql, {**constants, **values}).fetchall()
        except self.engine.dialect.loaded_dbapi.Error:
            return None
        return tuple(rows[0]) if rows else None

    @property
    def is_sqlite(self) -> bool:
        """Whether the database is a file of SQLite."""
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def _alone(self) -> Iterator[Any]:
        """The driver's connection, for one statement: PostgreSQL is told of no transaction, and SQLite waits for no lock."""
        with closing(self.engine.raw_connection()) as pooled:
            connection: Any = pooled.driver_connection
            if self.is_sqlite:
                connection.execute("PRAGMA busy_timeout=0")
                try:
                    yield connection
                finally:
                    connection.execute(f"PRAGMA busy_timeout={1000 * sqlite_lock_s(self.timeouts):.0f}")
            else:
                connection.autocommit = True
                try:
                    yield connection
                finally:
                    connection.autocommit = False

    def _compile(self, query: ClauseElement) -> tuple[str, Mapping[str, Any]]:
        compiled = query.compile(dialect=self.engine.dialect)
        self._sql[query] = str(compiled), compiled.params
        return self._sql[query]

    @contextmanager
    def _turn_to_write(self) -> Iterator[None]:
        """Wait on SQLite until no other thread writes. Raises Unavailable."""
        if not self.is_sqlite:
            yield
            return
        if not self._writing.acquire(timeout=sqlite_lock_s(self.timeouts)):
            raise Unavailable("the database is busy with other changes; try again shortly")
        try:
            yield
        finally:
            self._writing.release()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn the errors of a driver into ones that say what to do; what the driver said is logged."""
        began = time.monotonic()
        try:
            yield
        except (SQLAlchemyError, OverflowError) as error:
            explained = explain(error)
            if explained is None:
                raise
            if isinstance(explained, Unavailable):
                self._causes.note(error, took_s=time.monotonic() - began)
            self._is_full |= says_full(error)
            raise explained from error
        except Unavailable as error:
            if isinstance(error.__cause__, NoAnswer | DatabaseError):
                self._causes.note(error.__cause__, took_s=time.monotonic() - began)
            raise

    def require_room(self) -> None:
        """Raise Unavailable if the disk of the database is full: the last write failed, and writing still fails."""
        if self._is_full:
            with self.write() as session:
                session.execute(text("UPDATE alembic_version SET version_num = version_num"))
            self._is_full = False

    def close(self) -> None:
        """Close all connections; those in use, or opened by a later session, are closed when their session ends."""
        self.engine.dispose()

    def revision(self) -> str | None:
        """The revision of the schema as it is, or None for an empty database."""
        with self._explained(), self.breaker.asking(), self.engine.connect() as connection:
            return revision_of(connection)

    def upgrade(self) -> None:
        """Bring the schema to the newest revision; does nothing if it is there already.

        Raises Unavailable if the schema is newer than this code, or if on PostgreSQL somebody locks a table for longer
        than a migration waits (see `Timeouts`).
        """
        head = head_revision()
        present = self.revision()
        if present == head:
            return
        if present is not None and present > head:
            raise too_new(present, head)
        with self._explained(), self.breaker.asking():
            run_migrations(self.engine, self.timeouts)

    def is_current(self) -> bool:
        """Whether the schema is the one that this code knows."""
        return self.revision() == head_revision()

    def require_current(self, *, or_newer: bool = False) -> None:
        """Raise Unavailable, which names the command to run, unless the schema is the one that this code knows.

        With `or_newer`, a later one is accepted too: after a migration the previous release can continue until it is
        replaced.
        """
        present, head = self.revision(), head_revision()
        newer = present is not None and present > head
        if newer and not or_newer:
            raise too_new(str(present), head)
        if present != head and not newer:
            raise Unavailable(
                f"the database is at revision {present or 'none'}, this program needs {head}; run: adapter-registry db upgrade"
            )


def once(session: Session, question: tuple[Hashable, ...], ask: Callable[[], T]) -> T:
    """Return what `ask` does, which it is asked once in a session that several reads share (`Database.one_state`).

    `question` is all that its answer depends on. Who asks is no part of it: rights are looked at before and afterwards.
    """
    answers: dict[tuple[Hashable, ...], T] | None = session.info.get(_ANSWERS)
    if answers is None:
        return ask()
    if question not in answers:
        answers[question] = ask()
    return answers[question]


def migrations_folder() -> Path:
    """Where the migrations are: inside the installed package, or next to it in a checkout."""
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


def revision_of(connection: Connection) -> str | None:
    """The revision of the schema as it is, or None for an empty database."""
    try:
        revision: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    except (OperationalError, ProgrammingError) as error:
        # "No such table" is an operational error with SQLite, and a programming error with PostgreSQL.
        if "no such table" in str(error.orig) or getattr(error.orig, "sqlstate", None) == "42P01":
            return None
        raise
    return revision


def run_migrations(engine: Engine, timeouts: Timeouts) -> None:
    """Bring the schema to the newest revision."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    config.attributes["engine"] = engine
    config.attributes["within_s"] = timeouts.migration_s
    config.attributes["lock_timeout_s"] = timeouts.migration_lock_s
    command.upgrade(config, "head")


def too_new(present: str, head: str) -> Unavailable:
    """The error if the schema is newer than this program."""
    return Unavailable(
        f"the database is at revision {present}, newer than this program's {head}; "
        "upgrade with: pip install --upgrade adapterctl"
    )
