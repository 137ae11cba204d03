"""A backup of an SQLite database: one file, whole or not there, taken while others write."""

from __future__ import annotations

import itertools
import math
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from support.fixtures import Limits
from support.schemas import load_past, rows_of

from registry.db.database import Database
from registry.errors import Invalid, Unavailable
from registry.ops.backup import back_up


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    """A registry with a row of everything."""
    database = Database(f"sqlite:///{tmp_path / 'registry.sqlite3'}")
    load_past(database)
    yield database
    database.close()


def test_a_backup_is_one_private_file_with_every_row(db: Database, tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    folder.mkdir()
    back_up(db, folder / "registry.sqlite3")
    assert [path.name for path in folder.iterdir()] == ["registry.sqlite3"]
    assert stat.S_IMODE((folder / "registry.sqlite3").stat().st_mode) == 0o600
    copy = Database(f"sqlite:///{folder / 'registry.sqlite3'}")
    assert rows_of(copy) == rows_of(db)
    copy.close()


def test_a_backup_holds_what_was_committed_and_waits_for_no_writer(db: Database, tmp_path: Path) -> None:
    with db.write() as session:
        session.execute(text("UPDATE tokens SET name = 'committed'"))
    with db.write() as session:
        session.execute(text("UPDATE tokens SET name = 'not committed'"))
        back_up(db, tmp_path / "backup")
    with sqlite3.connect(tmp_path / "backup") as copy:
        assert copy.execute("SELECT DISTINCT name FROM tokens").fetchall() == [("committed",)]
    copy.close()


def test_a_backup_that_takes_too_long_is_given_up_and_leaves_nothing(db: Database, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="longer than 1e-06 s; give it more with --timeout-s"):
        back_up(db, tmp_path / "backup", within_s=1e-6)
    assert not list(tmp_path.glob("backup*"))
    # The connection goes back as it was: the next who has it begins a transaction of its own.
    back_up(db, tmp_path / "backup")


def test_a_backup_in_several_steps_is_of_one_moment(db: Database, tmp_path: Path, limits: Limits) -> None:
    limits("registry.ops.backup", _PAGES=1)
    with sqlite3.connect(tmp_path / "registry.sqlite3", isolation_level=None) as writer:
        looks = itertools.count(1)

        def write_between() -> float:
            # The first look is before the copy begins, the others are between its steps.
            look = next(looks)
            writer.execute("UPDATE tokens SET name = ?", [f"look {look}"])
            # A copy that each writer makes begin again would never end.
            return 0.0 if look < 10_000 else math.inf

        back_up(db, tmp_path / "backup", clock=write_between)
    writer.close()
    assert next(looks) > 4
    with sqlite3.connect(tmp_path / "backup") as copy:
        assert copy.execute("SELECT DISTINCT name FROM tokens").fetchall() == [("look 1",)]
    copy.close()


def test_a_file_that_exists_is_left_alone(db: Database, tmp_path: Path) -> None:
    (tmp_path / "backup").write_text("of yesterday")
    with pytest.raises(Invalid, match="already exists; name a new file"):
        back_up(db, tmp_path / "backup")
    assert (tmp_path / "backup").read_text() == "of yesterday"


def test_half_a_backup_of_somebody_else_is_left_alone(db: Database, tmp_path: Path) -> None:
    (tmp_path / "backup.partial").write_text("half")
    with pytest.raises(Unavailable, match="can't be written"):
        back_up(db, tmp_path / "backup")
    assert (tmp_path / "backup.partial").read_text() == "half"
    assert not (tmp_path / "backup").exists()


def test_a_folder_that_is_not_there_is_said(db: Database, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"can't be written .* check the folder"):
        back_up(db, tmp_path / "nowhere" / "backup")


def test_a_database_without_a_registry_is_no_backup(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'other.sqlite3'}")
    with pytest.raises(Invalid, match="no registry in"):
        back_up(database, tmp_path / "backup")
    database.close()
    assert not (tmp_path / "backup").exists()


def test_postgresql_has_a_program_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"pg_dump --format=custom"):
        back_up(Database("postgresql://nobody@127.0.0.1:1/none"), tmp_path / "backup")
