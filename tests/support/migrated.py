"""Databases whose schema the migrations made once: a test gets a copy, which takes a hundredth of the time."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from registry.db.database import Database, head_revision
from support.servers import TestPostgres


def migrated_file(path: Path) -> str:
    """Make an SQLite database with an empty schema; return its URL."""
    path.touch(mode=0o600)
    path.write_bytes(_template())
    return f"sqlite:///{path}"


@cache
def _template() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "registry.sqlite3"
        _upgrade(f"sqlite:///{path}")
        return path.read_bytes()


def migrated_database(server: TestPostgres, name: str) -> str:
    """Make a PostgreSQL database with an empty schema; return its URL."""
    return server.create_database(name, template=_template_database(server))


@cache
def _template_database(server: TestPostgres) -> str:
    """The database that others are copied from; nobody may be connected to it then."""
    name = f"schema_{head_revision()}"
    with server.locked():
        if not server.has_database(name):
            _upgrade(server.create_database(f"{name}_partial"))
            server.rename_database(f"{name}_partial", name)
    return name


def _upgrade(url: str) -> None:
    database = Database(url)
    database.upgrade()
    database.close()
