"""A PostgreSQL whose process is stopped, or that takes too long: whoever asks it is told in time.

One backend is stopped, so that the server of the other tests is left alone.
"""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from sqlalchemy import bindparam, make_url, select, text
from support import registries
from support.adapters import base_registration, save_adapter
from support.waiting import wait_until

from registry.access.models import Token
from registry.db.database import Database
from registry.deadlines import Timeouts
from registry.errors import Unavailable
from sdk.errors import Unavailable as ClientUnavailable

pytestmark = pytest.mark.alone

#: Shorter than anybody would want, so that the tests are short; less than 2 to connect the driver does not take.
IMPATIENT = Timeouts(connect_s=2, statement_s=0.4, lock_s=0.2, idle_s=0.3, deadline_s=0.6)


@pytest.fixture
def db(postgres_database: str) -> Iterator[Database]:
    db = Database(postgres_database, IMPATIENT)
    db.upgrade()
    yield db
    db.close()


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def backend_of(db: Database) -> int:
    """The process that serves the one connection of the pool."""
    with db.read() as session:
        return int(session.scalar(text("SELECT pg_backend_pid()")) or 0)


class TestStopped:
    def test_amid_a_transaction(self, db: Database) -> None:
        began = time.monotonic()

        def write() -> None:
            with db.write() as session, stopped(int(session.scalar(text("SELECT pg_backend_pid()")) or 0)):
                session.execute(text("SELECT 1"))

        with pytest.raises(Unavailable, match="the database does not answer"):
            write()
        assert time.monotonic() - began < 2
        assert backend_of(db) > 0

    def test_at_the_commit(self, db: Database) -> None:
        with pytest.raises(Unavailable, match="does not answer"), _stopped_at_the_end(db):
            pass
        with db.read() as session:
            assert session.scalar(select(Token.name)) in (None, "x")

    def test_a_connection_of_the_pool(self, db: Database) -> None:
        with stopped(backend_of(db)):
            began = time.monotonic()
            with pytest.raises(Unavailable, match="does not answer"):
                backend_of(db)
            assert time.monotonic() - began < IMPATIENT.connect_s + 1
        assert backend_of(db) > 0

    def test_many_wait_for_it_once(self, db: Database) -> None:
        # As many as the pool keeps open.
        pids, together = [], threading.Barrier(5)

        def hold(_: int) -> None:
            with db.read() as session:
                pids.append(int(session.scalar(text("SELECT pg_backend_pid()")) or 0))
                together.wait()

        with ThreadPoolExecutor(5) as pool:
            list(pool.map(hold, range(5)))
        with ExitStack() as stack:
            for pid in pids:
                stack.enter_context(stopped(pid))
            with pytest.raises(Unavailable):
                backend_of(db)
            # One asks again, and all others are told at once.
            began = time.monotonic()
            with ThreadPoolExecutor(40) as pool:
                refused = [pool.submit(backend_of, db) for _ in range(40)]
                quick = sum(isinstance(one.exception(), Unavailable) for one in refused)
            assert quick >= 39
            assert time.monotonic() - began < IMPATIENT.connect_s + 1

        def is_back() -> bool:
            with suppress(Unavailable):
                backend_of(db)
            return not db.breaker.is_open

        wait_until(is_back, timeout_s=10)

    def test_a_read_without_a_session(self, db: Database) -> None:
        pid = select(text("pg_backend_pid()"), bindparam("x", type_=Token.name.type))
        found = db.row(pid, x="a")
        with stopped(int(found[0])):
            began = time.monotonic()
            with pytest.raises(Unavailable, match="does not answer"):
                db.row(pid, x="a")
            assert time.monotonic() - began < 4
        assert db.row(pid, x="a") is not None


@contextmanager
def _stopped_at_the_end(db: Database) -> Iterator[None]:
    pid = 0
    try:
        with db.write() as session:
            session.add(Token(id="1", name="x", secret_sha256="0"))
            session.flush()
            pid = int(session.scalar(text("SELECT pg_backend_pid()")) or 0)
            yield
            os.kill(pid, signal.SIGSTOP)
    finally:
        os.kill(pid, signal.SIGCONT)


class TestTooLong:
    def test_a_statement(self, db: Database) -> None:
        with pytest.raises(Unavailable, match="took too long"), db.read() as session:
            session.execute(text("SELECT pg_sleep(5)"))
        assert not db.breaker.is_open

    def test_a_lock(self, db: Database) -> None:
        # Whoever holds the lock may stand still for longer than the other waits.
        with closing(Database(db.url)) as another, another.write() as holder:
            holder.execute(text("LOCK TABLE tokens IN ACCESS EXCLUSIVE MODE"))
            with pytest.raises(Unavailable, match="busy with another program's changes"), db.read() as session:
                session.execute(select(Token.id))

    def test_a_transaction_whose_process_stands_still_is_ended(self, db: Database) -> None:
        def stand_still() -> None:
            with db.write() as session:
                session.execute(text("LOCK TABLE tokens IN ACCESS EXCLUSIVE MODE"))
                with closing(Database(db.url)) as another, another.read() as other:
                    # Waits for as long as the first is let stand.
                    other.execute(select(Token.id))
                session.execute(text("SELECT 1"))

        with pytest.raises(Unavailable, match="paused during a transaction"):
            stand_still()

    def test_a_connection_that_the_server_ends_is_no_database_that_is_away(self, db: Database) -> None:
        def lose() -> None:
            with db.write() as session, closing(Database(db.url)) as another, another.write() as other:
                pid = session.scalar(text("SELECT pg_backend_pid()"))
                other.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
                session.execute(text("SELECT 1"))

        with pytest.raises(Unavailable, match="closed the connection during a transaction; try again"):
            lose()
        assert backend_of(db) > 0

    def test_why_is_in_the_log_on_one_line(self, db: Database, caplog: pytest.LogCaptureFixture) -> None:
        with pytest.raises(Unavailable), db.read() as session:
            session.execute(text("SELECT pg_sleep(5)"))
        with pytest.raises(Unavailable), _stopped_at_the_end(db):
            pass
        slow, silent = (record.getMessage() for record in caplog.records if record.name == "registry.db.errors")
        assert re.fullmatch(r".* after 0\.\d\d s: QueryCanceled \(57014\): .* due to statement timeout", slow)
        ended = "; the registry stopped waiting and closed the connection"
        assert re.fullmatch(rf".* s: Unanswered \(no SQLSTATE\): no answer within 0.6 s{ended}", silent)

    def test_a_server_that_has_no_connection_left_runs(self, db: Database) -> None:
        (name,) = re.findall(r"test_\w+", db.url)
        with closing(Database(db.url)) as another:
            with another.write() as session:
                session.execute(text("CREATE ROLE one_only LOGIN PASSWORD 'x' CONNECTION LIMIT 0"))
                session.execute(text(f"GRANT CONNECT ON DATABASE {name} TO one_only"))
            try:
                url = make_url(db.url).set(username="one_only", password="x").render_as_string(hide_password=False)
                with closing(Database(url)) as full, pytest.raises(Unavailable, match="has no connection left"):
                    full.revision()
            finally:
                with another.write() as session:
                    session.execute(text(f"REVOKE ALL ON DATABASE {name} FROM one_only"))
                    session.execute(text("DROP ROLE one_only"))

    def test_all_statements_of_a_transaction_together(self, db: Database) -> None:
        def ask_often() -> None:
            with db.read() as session:
                for _ in range(20):
                    session.execute(text("SELECT pg_sleep(0.25)"))

        with pytest.raises(Unavailable, match="took too long"):
            ask_often()
        assert not db.breaker.is_open

    def test_a_statement_that_came_late_is_no_sign_of_silence(self, postgres_database: str) -> None:
        db = Database(postgres_database, replace(IMPATIENT, statement_s=2, deadline_s=2.4))

        def ask_twice() -> None:
            with db.read() as session:
                session.execute(text("SELECT pg_sleep(1)"))
                # The server would give it up after 2 seconds, and the transaction has less than that left.
                session.execute(text("SELECT pg_sleep(1.8)"))

        with closing(db), pytest.raises(Unavailable, match="took too long"):
            ask_twice()
        assert not db.breaker.is_open

    def test_what_may_take_longer_does_and_the_next_may_not(self, db: Database) -> None:
        with db.write(within_s=5) as session:
            session.execute(text("SELECT pg_sleep(1)"))
        with pytest.raises(Unavailable, match="took too long"), db.write() as session:
            session.execute(text("SELECT pg_sleep(5)"))

    def test_a_pooler_that_takes_no_options_is_given_none(self, postgres_database: str) -> None:
        for tells, said in ((True, "5s"), (False, "0")):
            db = Database(postgres_database, replace(Timeouts(), tells=tells))
            with db.read() as session:
                assert session.scalar(text("SHOW statement_timeout")) == said
            db.close()


class TestThreads:
    def test_who_needs_no_database_is_served_while_every_thread_waits_for_it(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path / 'registry.sqlite3'}"
        with ExitStack() as stack:
            storage = (tmp_path / "artifacts").as_uri()
            world = stack.enter_context(registries.served(tmp_path / "served", database_url=url, storage_url=storage))
            world.admin.bases.register(base_registration())
            version = world.writer.push(save_adapter(tmp_path / "adapter", 1), "a", base="tiny")
            (file, *_) = world.writer.versions.locate(version.digest)
            holder = sqlite3.connect(tmp_path / "registry.sqlite3", isolation_level=None)
            stack.callback(holder.close)
            pool = stack.enter_context(ThreadPoolExecutor(60))
            holder.execute("BEGIN IMMEDIATE")
            try:
                # More than there are threads for all routes.
                moves = [pool.submit(world.writer.set_alias, "a", f"alias-{number}", 1) for number in range(60)]
                time.sleep(0.5)
                assert not any(move.done() for move in moves)
                for path in (f"{world.url}/healthz", file.url):
                    began = time.monotonic()
                    assert httpx.get(path, timeout=30).status_code == 200
                    assert time.monotonic() - began < 1
            finally:
                holder.execute("ROLLBACK")
            refused = [error for move in moves if (error := move.exception()) is not None]
            # What finds no connection of the database soon is told so; the rest was done.
            assert all(isinstance(error, ClientUnavailable) for error in refused)
            assert len(refused) < len(moves)
