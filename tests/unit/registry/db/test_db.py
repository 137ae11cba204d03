"""The database: its schema's version, transactions, and what a driver's errors become."""

from __future__ import annotations

import os
import re
import sqlite3
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Integer, String, bindparam, event, func, select, text, update

from registry.access.models import Token
from registry.artifacts.models import Blob
from registry.catalog.models import Adapter, AliasMoveRow
from registry.db.database import Database, head_revision, migrations_folder
from registry.db.engine import make_engine, sqlite_lock_s
from registry.db.statements import insert_if_new
from registry.db.types import db_epoch_s, utc_now
from registry.deadlines import Timeouts
from registry.errors import Invalid, Unavailable


def new(path: Path) -> Database:
    return Database(f"sqlite:///{path / 'new.sqlite3'}")


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Database]:
    database = new(tmp_path)
    yield database
    database.close()


class TestRevision:
    def test_the_head_is_the_newest_file(self) -> None:
        numbers = [path.name[:4] for path in (migrations_folder() / "versions").glob("[0-9]*.py")]
        assert head_revision() == max(numbers)
        assert re.fullmatch(r"\d{4}", head_revision())

    def test_an_empty_database_has_none_and_is_not_current(self, empty: Database) -> None:
        assert empty.revision() is None
        with pytest.raises(Unavailable, match=r"revision none.*run: adapter-registry db upgrade"):
            empty.require_current()

    def test_upgrading_twice_is_upgrading_once(self, empty: Database) -> None:
        empty.upgrade()
        empty.require_current()
        with empty.write() as session:
            session.add(Blob(sha256="a" * 64, size_bytes=1))
        empty.upgrade()
        assert empty.revision() == head_revision()
        with empty.read() as session:
            assert session.scalar(select(func.count()).select_from(Blob)) == 1

    def test_who_opens_a_new_file_that_another_begins_to_write_waits(self, empty: Database, tmp_path: Path) -> None:
        """SQLite gives up at once where a file is not in its later mode yet and somebody is about to write."""
        other = sqlite3.connect(tmp_path / "new.sqlite3", isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        other.execute("CREATE TABLE of_another (x)")
        done = threading.Timer(0.3, other.commit)
        done.start()
        assert empty.revision() is None
        done.join()
        other.close()

    def test_a_schema_of_a_newer_program_is_left_alone(self, db: Database) -> None:
        with db.write() as session:
            session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        with pytest.raises(Unavailable, match=r"9999, newer than .* pip install --upgrade"):
            db.upgrade()
        with pytest.raises(Unavailable):
            db.require_current()
        assert db.revision() == "9999"

    def test_a_server_that_is_away_is_not_an_empty_database(self) -> None:
        away = Database("postgresql://user@127.0.0.1:1/registry")
        for look in (away.revision, away.require_current, away.upgrade):
            with pytest.raises(Unavailable, match="can't be reached"):
                look()

    def test_a_folder_that_is_missing_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(Unavailable, match="can't be opened"):
            Database(f"sqlite:///{tmp_path / 'none' / 'x.sqlite3'}").upgrade()

    def test_a_file_that_is_no_database_is_said(self, tmp_path: Path) -> None:
        (tmp_path / "new.sqlite3").write_bytes(b"no database at all, and long enough to be read as one" * 100)
        with pytest.raises(Unavailable, match="was not made by the registry"):
            new(tmp_path).upgrade()


class TestTransactions:
    def test_a_write_that_raises_leaves_nothing(self, db: Database) -> None:
        def write_and_break() -> None:
            with db.write() as session:
                session.add(Blob(sha256="a" * 64, size_bytes=1))
                session.flush()
                raise RuntimeError

        with pytest.raises(RuntimeError):
            write_and_break()
        with db.read() as session:
            assert session.get(Blob, "a" * 64) is None

    def test_foreign_keys_are_held(self, db: Database) -> None:
        with pytest.raises(Exception, match="FOREIGN KEY"), db.write() as session:
            session.add(AliasMoveRow(adapter_pk=7, alias="x", moved_by="y"))

    def test_writers_that_read_first_wait_for_one_another(self, db: Database) -> None:
        with db.write() as session:
            session.add(Adapter(name="a", created_by="x"))

        def count(_: int) -> None:
            with db.write() as session:
                number = session.scalar(select(Adapter.last_number))
                time.sleep(0.005)
                session.execute(update(Adapter).values(last_number=(number or 0) + 1))

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(count, range(24)))
        with db.read() as session:
            assert session.scalar(select(Adapter.last_number)) == 24

    def test_writers_that_wait_for_one_another_leave_the_connections_to_others(self, db: Database) -> None:
        timeouts = Timeouts(connections=2, pool_s=0.1)
        begun = threading.Semaphore(0)
        with closing(Database(db.url, timeouts)) as few, ThreadPoolExecutor(3) as pool:

            def write(number: int) -> None:
                begun.release()
                with few.write() as session:
                    session.add(Blob(sha256=f"{number:064}", size_bytes=1))

            with few.write():
                writes = [pool.submit(write, number) for number in range(3)]
                for _ in writes:
                    begun.acquire()
                for _ in range(20):
                    with few.read() as session:
                        assert session.scalar(select(func.count()).select_from(Blob)) == 0
                    time.sleep(0.005)
            for one in writes:
                one.result()
            with few.read() as session:
                assert session.scalar(select(func.count()).select_from(Blob)) == 3

    def test_writer_that_waits_too_long_is_told(self, db: Database) -> None:
        def write() -> None:
            with impatient.write():
                pass

        with closing(Database(db.url, Timeouts(lock_s=0.05))) as impatient, ThreadPoolExecutor(1) as pool:
            with impatient.write(), pytest.raises(Unavailable, match="busy with other changes; try again shortly"):
                pool.submit(write).result()
            pool.submit(write).result()

    def test_insert_if_new_says_whether_it_did(self, db: Database) -> None:
        def insert(_: int) -> bool:
            with db.write() as session:
                return insert_if_new(session, Blob, sha256="b" * 64, size_bytes=1)

        with ThreadPoolExecutor(4) as pool:
            assert sorted(pool.map(insert, range(4))) == [False, False, False, True]
        with db.write() as session:
            assert insert_if_new(session, Blob, sha256="b" * 64, size_bytes=2) is False
        with db.read() as session:
            assert session.get_one(Blob, "b" * 64).size_bytes == 1

    def test_moments_are_utc_and_have_a_zone(self, db: Database) -> None:
        moment = datetime(2030, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=5)))
        with db.write() as session:
            session.add(Token(id="1", name="x", secret_sha256="0", expires_at=moment))
        with db.read() as session:
            found = session.get_one(Token, "1").expires_at
        assert found == moment
        assert found.tzinfo == UTC
        with pytest.raises(Exception, match="without a time zone"), db.write() as session:
            session.add(Token(id="2", name="x", secret_sha256="1", expires_at=datetime(2030, 1, 1)))  # noqa: DTZ001

    def test_the_databases_clock_counts_seconds(self, db: Database) -> None:
        with db.read() as session:
            assert abs(float(session.scalar(select(db_epoch_s())) or 0) - utc_now().timestamp()) < 2


class TestOnDisk:
    def test_what_was_acknowledged_is_on_the_disk(self, db: Database) -> None:
        with db.write() as session:
            assert session.execute(text("PRAGMA journal_mode")).scalar() == "wal"
            # FULL: the log is synced before a commit is answered.
            assert session.execute(text("PRAGMA synchronous")).scalar() == 2

    def test_a_new_database_is_its_owners_alone(self, tmp_path: Path) -> None:
        usual = os.umask(0)
        try:
            database = new(tmp_path)
            database.upgrade()
            with database.write() as session:
                session.add(Blob(sha256="a" * 64, size_bytes=1))
                session.flush()
                modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
            database.close()
        finally:
            os.umask(usual)
        assert modes == {f"new.sqlite3{end}": 0o600 for end in ("", "-wal", "-shm")}


class TestErrors:
    def test_no_error_says_what_a_statement_was_given(self, db: Database) -> None:
        with pytest.raises(Exception, match="no such table") as caught, db.read() as session:
            session.execute(text("SELECT * FROM missing WHERE x = :x"), {"x": "secret-of-a-token"})
        said = "".join(traceback.format_exception_only(caught.value))
        assert "SELECT" in said
        assert "secret-of-a-token" not in said

    def test_a_full_disk_is_said_remembered_and_survived(self, db: Database) -> None:
        with db.engine.connect() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        db.require_room()

        def write_much() -> None:
            with db.write() as session:
                session.execute(text(f"PRAGMA max_page_count = {pages + 1}"))
                session.execute(text("CREATE TABLE much (it BLOB)"))
                session.execute(text("INSERT INTO much VALUES (zeroblob(1000000))"))

        with pytest.raises(Unavailable, match="disk that holds the database is full"):
            write_much()
        db.close()
        # There is room again: a write is tried, and says so.
        db.require_room()
        assert not db._is_full
        with db.write() as session:
            session.add(Blob(sha256="c" * 64, size_bytes=1))

    def test_a_number_that_no_column_holds_is_invalid(self, db: Database) -> None:
        with pytest.raises(Invalid, match="out of the database's range"), db.write() as session:
            session.execute(update(Blob).values(size_bytes=2**64))

    def test_another_programs_lock_is_said(self, db: Database, tmp_path: Path) -> None:
        other = sqlite3.connect(tmp_path / "registry.sqlite3", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")

        def write_impatiently() -> None:
            with db.read() as session:
                session.execute(text("PRAGMA busy_timeout = 10"))
                session.execute(update(Blob).values(size_bytes=1))

        try:
            with pytest.raises(Unavailable, match="busy"):
                write_impatiently()
        finally:
            other.close()
        db.close()

    def test_a_fault_of_ours_stays_one(self, db: Database) -> None:
        with pytest.raises(Exception, match="no such table"), db.read() as session:
            session.execute(text("SELECT * FROM missing"))


def test_a_connection_in_use_is_closed_with_its_session_once_the_database_is(db: Database) -> None:
    with db.read() as session:
        driver = session.connection().connection.dbapi_connection
        assert isinstance(driver, sqlite3.Connection)
        db.close()
        assert session.execute(text("SELECT 1")).scalar_one() == 1
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        driver.execute("SELECT 1")
    with db.read() as session:
        assert session.execute(text("SELECT 1")).scalar_one() == 1


def test_a_connection_that_is_being_opened_while_the_database_is_closed_is_closed_as_well(db: Database) -> None:
    opened: list[sqlite3.Connection] = []

    @event.listens_for(db.engine, "connect", insert=True)
    def _close_meanwhile(driver: sqlite3.Connection, _record: Any) -> None:
        if not opened:
            db.close()
        opened.append(driver)

    with db.read() as session:
        assert session.execute(text("SELECT 1")).scalar_one() == 1
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        opened[0].execute("SELECT 1")


def test_what_is_asked_of_a_closed_database_leaves_no_connection_open(db: Database) -> None:
    opened: list[sqlite3.Connection] = []

    @event.listens_for(db.engine, "connect")
    def _note(driver: sqlite3.Connection, _record: Any) -> None:
        opened.append(driver)

    db.close()
    # As a thread does that was not done yet.
    with db.write() as session, db.read() as other:
        assert session.execute(text("SELECT 1")).scalar_one() == other.execute(text("SELECT 1")).scalar_one() == 1
    assert db.revision() is not None
    assert len(opened) == 3
    for driver in opened:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            driver.execute("SELECT 1")
    db.close()


def test_threads_that_come_first_together_get_one_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def slowly(*given: Any) -> Any:
        time.sleep(0.05)
        made.append(make_engine(*given))
        return made[-1]

    monkeypatch.setattr("registry.db.database.make_engine", slowly)
    database, start = new(tmp_path), threading.Barrier(8)

    def ask(_: int) -> Any:
        start.wait()
        return database.engine

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(ask, range(8))) == set(made)
    assert len(made) == 1
    database.close()


class TestRow:
    """One row without a session."""

    QUERY = select(Blob.size_bytes).where(
        Blob.sha256 == bindparam("sha256", type_=String), Blob.size_bytes < bindparam("most", type_=Integer)
    )

    @pytest.fixture(autouse=True)
    def _open(self, db: Database) -> None:
        """Leave a connection open: a row opens none."""
        with db.read() as session:
            session.execute(text("SELECT 1"))

    def test_the_row_of_these_values_is_found(self, db: Database) -> None:
        with db.write() as session:
            session.add_all([Blob(sha256="a" * 64, size_bytes=1), Blob(sha256="b" * 64, size_bytes=2)])
        assert db.row(self.QUERY, sha256="b" * 64, most=3) == (2,)
        assert db.row(self.QUERY, sha256="b" * 64, most=2) is None

    def test_what_was_committed_before_is_seen(self, db: Database) -> None:
        assert db.row(self.QUERY, sha256="a" * 64, most=3) is None
        with db.write() as session:
            session.add(Blob(sha256="a" * 64, size_bytes=1))
        assert db.row(self.QUERY, sha256="a" * 64, most=3) == (1,)

    @pytest.mark.parametrize("wrong", [{"most": 2**70}, {"sha256": "\ud800"}])
    def test_what_a_driver_can_t_be_given_takes_no_connection_away(self, db: Database, wrong: dict[str, Any]) -> None:
        for _ in range(20):
            with pytest.raises((Invalid, UnicodeEncodeError)):
                db.row(self.QUERY, **{"sha256": "a", "most": 1, **wrong})
        assert db.row(self.QUERY, sha256="a", most=1) is None

    def test_what_the_driver_refuses_is_left_to_a_session(self, db: Database) -> None:
        assert db.row(text("SELECT * FROM none")) is None

    def test_it_waits_for_no_lock_and_later_sessions_do(self, db: Database) -> None:
        changing = text("UPDATE alembic_version SET version_num = version_num RETURNING version_num")
        began = time.monotonic()
        with closing(sqlite3.connect(str(db.engine.url.database), isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert db.row(changing) is None
            assert time.monotonic() - began < sqlite_lock_s(db.timeouts) / 2
        assert db.row(changing) == (head_revision(),)
        with db.read() as session:
            assert session.scalar(text("PRAGMA busy_timeout")) == 1000 * sqlite_lock_s(db.timeouts)

    def test_it_waits_for_no_connection(self, db: Database) -> None:
        began = time.monotonic()
        with ExitStack() as stack:
            for number in range(db.timeouts.connections):
                stack.enter_context(closing(db.engine.raw_connection()))
                if db.engine.pool.checkedin() == 0:  # type: ignore[attr-defined]
                    assert db.row(text("SELECT 1")) is None, f"{number} are in use"
            assert time.monotonic() - began < db.engine.pool.timeout() / 2  # type: ignore[attr-defined]
