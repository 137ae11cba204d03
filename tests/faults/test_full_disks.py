"""The disk of the database or of the store is full: what needs room is refused, the rest works, and ready says why."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text
from support import registries
from support.adapters import base_registration, save_adapter
from support.disks import disk, filled
from support.registries import World
from support.workplace import wait_until

from registry.db.database import Database
from registry.errors import Unavailable as DatabaseUnavailable
from sdk.errors import Unavailable


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A disk for the database and one for the store."""
    with disk(tmp_path / "database") as database, disk(tmp_path / "store") as store:
        yield database, store


@pytest.fixture
def world(tmp_path: Path, disks: tuple[Path, Path]) -> Iterator[World]:
    database, store = disks
    url = f"sqlite:///{database / 'registry.sqlite3'}"
    with registries.served(tmp_path / "served", database_url=url, storage_url=(store / "artifacts").as_uri()) as world:
        world.admin.bases.register(base_registration())
        yield world


def push_new(world: World, tmp_path: Path, seed: int) -> str:
    return world.writer.push(save_adapter(tmp_path / uuid.uuid4().hex, seed), "team/a", base="tiny").ref


def ready(world: World) -> httpx.Response:
    return httpx.get(f"{world.url}/readyz", timeout=10)


def check_that_it_recovers(world: World, tmp_path: Path, seed: int) -> None:
    wait_until(lambda: ready(world).status_code == 200, lambda: ready(world).text)
    push_new(world, tmp_path, seed)


def test_of_the_database(world: World, disks: tuple[Path, Path], tmp_path: Path) -> None:
    ref = push_new(world, tmp_path, 1)

    def push_until_refused() -> None:
        for seed in range(2, 200):
            push_new(world, tmp_path, seed)

    with filled(disks[0]):
        # The log beside the database has some room that was written to before.
        with pytest.raises(Unavailable, match="the disk that holds the database is full"):
            push_until_refused()
        wait_until(lambda: ready(world).status_code == 503, lambda: ready(world).text)
        assert "the disk that holds the database is full" in ready(world).text
        assert httpx.get(f"{world.url}/healthz").status_code == 200
        assert world.writer.get(ref).number == 1
    check_that_it_recovers(world, tmp_path, 200)


def test_of_the_store(world: World, disks: tuple[Path, Path], tmp_path: Path) -> None:
    ref = push_new(world, tmp_path, 1)
    with filled(disks[1]):
        with pytest.raises(Unavailable):
            push_new(world, tmp_path, 2)
        wait_until(lambda: ready(world).status_code == 503, lambda: ready(world).text)
        assert "No space left on device" in ready(world).text
        assert httpx.get(f"{world.url}/healthz").status_code == 200
        assert world.writer.get(ref).number == 1
        world.writer.set_alias("team/a", "production", 1)
    check_that_it_recovers(world, tmp_path, 3)


def test_as_postgresql_says_it(postgres_database: str) -> None:
    db = Database(postgres_database)
    db.upgrade()
    full = "DO $$ BEGIN RAISE EXCEPTION 'could not extend file \"base/1/2\": No space left on device' USING ERRCODE = '53100'; END $$"
    with pytest.raises(DatabaseUnavailable, match="the disk that holds the database is full"), db.write() as session:
        session.execute(text(full))
    # There is room again, as a write says.
    db.require_room()
    db.close()
