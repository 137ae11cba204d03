"""Fixtures of these tests. What becomes of versions and bytes that nobody wants any more: over SQLite and a folder, and
PostgreSQL and S3.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import registries
from support.adapters import base_registration, save_adapter
from support.fixtures import S3Place
from support.people import SEEDS
from support.registries import World

from registry.principal import Role
from registry.storage import open_storage
from sdk.client import Client
from sdk.objects import Version


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[World]:
    with registries.embedded(tmp_path / "home") as world:
        yield world


@pytest.fixture
def http_postgres_s3(tmp_path: Path, postgres_database: str, s3: S3Place) -> Iterator[World]:
    storage = open_storage(s3.url, s3=s3.options)
    folder = tmp_path / "served"
    with registries.served(folder, database_url=postgres_database, storage_url=s3.url, storage=storage) as world:
        yield world


@pytest.fixture(params=["embedded", "http_postgres_s3"])
def world(request: pytest.FixtureRequest) -> World:
    """A registry that holds one base and nothing else."""
    found = registries.asked_for(request)
    found.admin.bases.register(base_registration())
    return found


@pytest.fixture
def admin(world: World) -> Iterator[Client]:
    client = world.client(Role.ADMIN)
    yield client
    client.close()


@pytest.fixture
def push(world: World, tmp_path: Path) -> Callable[..., Version]:
    """Push an adapter with weights of its own, or those of a seed."""

    def push(name: str = "a", seed: int | None = None) -> Version:
        folder = save_adapter(tmp_path / uuid.uuid4().hex, next(SEEDS) if seed is None else seed)
        return world.writer.push(folder, name, base="tiny")

    return push
