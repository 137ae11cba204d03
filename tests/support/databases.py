"""Empty databases of both kinds, for tests that hold on each of them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sdk.stack.postgres import PostgresServer

KINDS = ("sqlite", "postgresql")


@contextmanager
def new_database(kind: str, folder: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty database: a file in `folder`, or one on the run's PostgreSQL, which goes at the end."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'registry.sqlite3'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = f"test_{uuid.uuid4().hex}"
    yield server.create_database(name)
    server.drop_database(name)
