"""Reads that share one state of a database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Thread

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session
from support.migrated import migrated_file

from registry.db.database import Database, once
from registry.errors import Invalid


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    with closing(Database(migrated_file(tmp_path / "registry.sqlite3"))) as opened:
        with opened.write() as session:
            session.execute(text("CREATE TABLE counted (number INTEGER)"))
            session.execute(text("INSERT INTO counted VALUES (1)"))
        yield opened


def number_in(session: Session) -> int:
    return int(session.execute(text("SELECT number FROM counted")).scalar_one())


def read_number(db: Database) -> int:
    with db.read() as session:
        return once(session, ("number",), lambda: number_in(session))


def change(db: Database) -> None:
    with db.write() as session:
        session.execute(text("UPDATE counted SET number = number + 1"))


def test_reads_of_a_block_see_one_state_and_later_ones_the_next(db: Database) -> None:
    with db.one_state():
        with db.read() as session:
            first = number_in(session)
        change(db)
        with db.one_state(), db.read() as session:
            assert number_in(session) == first == 1
    assert read_number(db) == 2


def test_a_question_is_asked_once_in_a_block_and_each_time_outside(db: Database) -> None:
    asked = []

    def ask(question: str) -> None:
        with db.read() as session:
            once(session, (question,), lambda: asked.append(question))

    with db.one_state():
        ask("a")
        ask("b")
        ask("a")
    assert asked == ["a", "b"]
    ask("a")
    ask("a")
    with db.one_state():
        ask("a")
    assert asked == ["a", "b", "a", "a", "a"]


def test_another_thread_shares_nothing_of_a_block(db: Database) -> None:
    found = []
    with db.one_state():
        assert read_number(db) == 1
        change(db)
        other = Thread(target=lambda: found.append(read_number(db)))
        other.start()
        other.join()
    assert found == [2]


def test_a_block_that_fails_shares_nothing_afterwards(db: Database) -> None:
    with pytest.raises(Invalid), db.one_state():
        raise Invalid("no; try another")
    change(db)
    assert read_number(db) == 2
