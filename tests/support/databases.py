"""Databases of both kinds with an empty schema, for tests that run on both."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.migrated import migrated_database, migrated_file
from support.servers import TestPostgres

KINDS = ("sqlite", "postgresql")


@contextmanager
def new_database(kind: str, folder: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a new database: a file in `folder`, or one on the run's PostgreSQL, which is dropped at the end."""
    if kind == "sqlite":
        yield migrated_file(folder / "registry.sqlite3")
        return
    server: TestPostgres = request.getfixturevalue("postgres_server")
    name = f"test_{uuid.uuid4().hex}"
    yield migrated_database(server, name)
    server.drop_database(name)
