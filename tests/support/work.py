"""How much work is done, in calls: the same on every machine, however busy it is."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import event

from registry.db.database import Database


@dataclass
class Work:
    """The calls of functions, of Python and of C, that one thread has made."""

    calls: int = 0


@contextmanager
def counting(work: Work) -> Iterator[None]:
    """Add this thread's calls within the block."""

    def count(frame: Any, event: str, arg: Any) -> None:
        work.calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(before)


def calls_of(action: Callable[[], object]) -> int:
    """Return how many calls an action makes."""
    work = Work()
    with counting(work):
        action()
    return work.calls


def grows(action: Callable[[int], Callable[[], object]], size: int) -> float:
    """Return how many times more calls the action for twice the size makes: 2 where work is in proportion.

    `action` prepares the action for a size, whose calls don't count.
    """
    small, large = calls_of(action(size)), calls_of(action(2 * size))
    return large / small


@dataclass
class Transaction(Work):
    """What was done in one transaction that writes."""

    statements: list[str] = field(default_factory=list)

    def wrote(self, table: str) -> bool:
        """Whether it added a row to a table."""
        return any(said.startswith(f"INSERT INTO {table} ") for said in self.statements)

    def read(self, column: str) -> bool:
        """Whether it read a column of this name."""
        return any(said.startswith("SELECT") and f".{column}" in said for said in self.statements)


@contextmanager
def watched(db: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Transaction]]:
    """The transactions that write during the block."""
    seen: list[Transaction] = []
    current = threading.local()
    begin = Database.write

    @contextmanager
    def writing(self: Database, **given: Any) -> Iterator[Any]:
        work = Transaction()
        with begin(self, **given) as session:
            current.work = work
            try:
                with counting(work):
                    yield session
            finally:
                current.work = None
        seen.append(work)

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if (work := getattr(current, "work", None)) is not None:
            work.statements.append(statement)

    event.listen(db.engine, "before_cursor_execute", note)
    monkeypatch.setattr(Database, "write", writing)
    try:
        yield seen
    finally:
        monkeypatch.setattr(Database, "write", begin)
        event.remove(db.engine, "before_cursor_execute", note)
