"""What a test connects to a database is closed again when the tests of its process have ended.

What is left open is closed whenever its garbage is collected, and Python 3.13 says so in whatever test runs then. This
names the test that opened it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.pool import Pool

#: The test that opened each connection that is open.
_open: dict[int, tuple[Any, str]] = {}
_running = "the collection of tests"


@event.listens_for(Pool, "connect")
def _connected(connection: Any, _record: Any) -> None:
    _open[id(connection)] = connection, _running


@event.listens_for(Pool, "close")
@event.listens_for(Pool, "close_detached")
def _closed(connection: Any, _record: Any = None) -> None:
    _open.pop(id(connection), None)


def pytest_runtest_logstart(nodeid: str) -> None:
    """Remember who runs."""
    global _running
    _running = nodeid


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> Generator[None, None, None]:
    """Fail after the last test if a connection is still open."""
    yield
    if nextitem is None:
        left = sorted({opener for connection, opener in _open.values() if _is_open(connection)})
        assert not left, f"these left connections to databases open: {', '.join(left)}"


def _is_open(connection: Any) -> bool:
    """Whether nobody has closed it: SQLAlchemy closes one that it could not set up, and says so to nobody."""
    try:
        return not connection.closed if hasattr(connection, "closed") else connection.total_changes >= 0
    except sqlite3.ProgrammingError:
        return False
