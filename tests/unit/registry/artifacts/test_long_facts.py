"""Long facts: one request of a process holds them at a time, short ones wait for nobody, and nobody reads them otherwise."""

from __future__ import annotations

import ast
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import InvalidRequestError
from support.databases import migrated_file

from registry.artifacts.long_facts import (
    LONG_BYTES,
    TurnNeededError,
    facts_of,
    facts_within,
    has_turn,
    holding_facts,
    keep_facts,
    take_turn,
)
from registry.artifacts.models import Blob
from registry.db.database import Database
from registry.errors import Unavailable

ROOT = Path(__file__).resolve().parents[4]
LONG, SHORT = "a" * 64, "b" * 64
KEPT: dict[str, Any] = {LONG: {"names": "x" * LONG_BYTES}, SHORT: {"names": "x"}}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(Database(migrated_file(tmp_path / "registry.sqlite3"))) as database:
        with database.write() as session:
            session.add_all([Blob(sha256=sha256, size_bytes=1, facts=facts) for sha256, facts in KEPT.items()])
        yield database


class TestTurn:
    def test_one_of_many_holds_long_facts_at_a_time(self, database: Database) -> None:
        holding, most = [0], [0]

        def hold(number: int) -> None:
            with holding_facts():
                assert facts_of(database, [LONG]) == {LONG: KEPT[LONG]}
                holding[0] += 1
                most[0] = max(most[0], holding[0])
                # A block within it is a part of it, and so is a transaction.
                with holding_facts(wait_s=0), database.write() as session:
                    assert facts_within(session, LONG) == KEPT[LONG]
                    keep_facts(session, LONG, KEPT[LONG])
                holding[0] -= 1

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(hold, range(24)))
        assert most == [1]
        assert not has_turn()

    def test_short_facts_wait_for_nobody(self, database: Database) -> None:
        with held_elsewhere(), holding_facts(wait_s=0):
            assert facts_of(database, [SHORT]) == {SHORT: KEPT[SHORT]}
            with database.read() as session:
                assert facts_within(session, SHORT) == KEPT[SHORT]
            assert not has_turn()

    def test_many_short_facts_are_long_together(self, database: Database) -> None:
        half = {"names": "x" * (LONG_BYTES // 2)}
        with database.write() as session:
            session.add_all([Blob(sha256=letter * 64, size_bytes=1, facts=half) for letter in "cde"])
        with holding_facts():
            assert len(facts_of(database, [letter * 64 for letter in "cde"])) == 3
            assert has_turn()

    def test_who_waits_too_long_is_told_so(self, database: Database) -> None:
        with held_elsewhere():
            with holding_facts(wait_s=0.01), pytest.raises(Unavailable, match=r"waited 0\.01 s .* one is worked on at"):
                facts_of(database, [LONG])
            with holding_facts(wait_s=0), pytest.raises(TurnNeededError):
                facts_of(database, [LONG])

    def test_nobody_waits_in_a_transaction(self, database: Database) -> None:
        with held_elsewhere(), holding_facts(), database.write() as session, pytest.raises(Unavailable):
            facts_within(session, LONG)

    def test_it_is_given_back_after_an_error(self, database: Database) -> None:
        def fail() -> None:
            with holding_facts():
                facts_of(database, [LONG])
                raise Unavailable("the store is away")

        with pytest.raises(Unavailable, match="the store is away"):
            fail()
        with holding_facts(wait_s=0.01):
            take_turn(LONG_BYTES + 1)

    def test_facts_are_held_in_a_block_only(self, database: Database) -> None:
        with pytest.raises(RuntimeError, match="in a block of `holding_facts` only"):
            facts_of(database, [SHORT])


def test_a_row_does_not_bring_its_facts(database: Database) -> None:
    with database.read() as session:
        row = session.get_one(Blob, LONG)
        with pytest.raises(InvalidRequestError, match="raiseload"):
            _ = row.facts
        assert "facts" not in str(select(Blob))


def test_only_one_file_reads_the_column() -> None:
    """`Blob.facts` as a part of a statement; a row's own raises, as above."""
    using = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "registry").rglob("*.py")
        if ".facts" in (source := path.read_text()) and "Blob" in source
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("Blob.facts", "models.Blob.facts")
    }
    assert using == {"registry/artifacts/long_facts.py"}, "use registry.artifacts.long_facts"


@contextmanager
def held_elsewhere() -> Iterator[None]:
    """Another thread has the turn during the block."""
    has, ends = threading.Event(), threading.Event()

    def hold() -> None:
        with holding_facts():
            take_turn(LONG_BYTES + 1)
            has.set()
            ends.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert has.wait(10)
        yield
    finally:
        ends.set()
        thread.join()
