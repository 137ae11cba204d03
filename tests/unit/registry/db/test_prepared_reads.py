"""Connections that single rows are read on: kept between reads, and closed by somebody in any case."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Integer, String, bindparam, select

from registry.catalog.models import Adapter
from registry.db.database import Database
from registry.db.prepared_reads import PreparedReads, Row

QUERY = select(Adapter.pk).where(
    Adapter.name == bindparam("name", type_=String), Adapter.pk == bindparam("pk", type_=Integer)
)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[sqlite3.Connection]:
    """Every connection that is opened, in order."""
    found: list[sqlite3.Connection] = []
    real = PreparedReads._open

    def noting(self: PreparedReads) -> sqlite3.Connection:
        found.append(real(self))
        return found[-1]

    monkeypatch.setattr(PreparedReads, "_open", noting)
    return found


@pytest.fixture
def reads(db: Database, opened: list[sqlite3.Connection]) -> Iterator[PreparedReads]:
    made = PreparedReads(db)
    yield made
    for connection in opened:
        connection.close()


def first(reads: PreparedReads, **changed: Any) -> Row | None:
    return asyncio.run(reads.first(QUERY, **{"name": "a", "pk": 1, **changed}))


def is_open(connection: sqlite3.Connection) -> bool:
    try:
        connection.execute("SELECT 1")
    except sqlite3.ProgrammingError:
        return False
    return True


def test_one_connection_is_kept_until_the_database_is_closed(
    db: Database, reads: PreparedReads, opened: list[sqlite3.Connection]
) -> None:
    assert [first(reads), first(reads)] == [None, None]
    assert [is_open(connection) for connection in opened] == [True]
    db.close()
    assert not is_open(opened[0])


def test_what_is_read_of_a_closed_database_leaves_no_connection_open(
    db: Database, reads: PreparedReads, opened: list[sqlite3.Connection]
) -> None:
    db.close()
    assert [first(reads), first(reads)] == [None, None]
    assert [is_open(connection) for connection in opened] == [False, False]


@pytest.mark.parametrize("wrong", [{"pk": 2**70}, {"name": "\ud800"}])
def test_what_a_driver_can_t_be_given_leaves_no_connection_open(
    reads: PreparedReads, opened: list[sqlite3.Connection], wrong: dict[str, Any]
) -> None:
    with pytest.raises((OverflowError, UnicodeEncodeError)):
        first(reads, **wrong)
    assert [is_open(connection) for connection in opened] == [False]
    assert first(reads) is None
    assert [is_open(connection) for connection in opened] == [False, True]
