"""A database that the migrations made, and services over it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.migrated import migrated_file

from registry.app.services import Services
from registry.db.database import Database
from registry.queue import NoQueue
from registry.settings import Settings


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    database = Database(migrated_file(tmp_path / "registry.sqlite3"))
    yield database
    database.close()


@pytest.fixture
def services(tmp_path: Path, db: Database) -> Iterator[Services]:
    settings = Settings(
        database_url=db.url,
        storage_url=(tmp_path / "artifacts").as_uri(),
        auth="none",
        embedded_home=str(tmp_path),
    )
    built = Services(settings, queue=NoQueue())
    yield built
    built.db.close()
