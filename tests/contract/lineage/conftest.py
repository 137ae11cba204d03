"""Fixtures of these tests. The lineage of real publishes, jobs, merges and evaluations: in process over SQLite, and
over HTTP and PostgreSQL.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from contract.lineage.helpers import Maker, Story, tell
from support import registries
from support.adapters import base_registration
from support.migrated import migrated_database
from support.registries import World
from support.servers import TestPostgres


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with registries.embedded(tmp_path_factory.mktemp("embedded") / "home") as world:
        yield world


@pytest.fixture(scope="module")
def http_postgres(tmp_path_factory: pytest.TempPathFactory, postgres_server: TestPostgres) -> Iterator[World]:
    name = f"lineage_{uuid.uuid4().hex}"
    folder = tmp_path_factory.mktemp("postgres")
    database_url = migrated_database(postgres_server, name)
    with registries.served(folder, database_url=database_url, storage_url=(folder / "artifacts").as_uri()) as world:
        yield world
    postgres_server.drop_database(name)


@pytest.fixture(scope="module", params=["embedded", "http_postgres"])
def world(request: pytest.FixtureRequest) -> World:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, World)
    found.admin.register_base(base_registration())
    return found


@pytest.fixture(scope="module")
def maker(world: World, tmp_path_factory: pytest.TempPathFactory) -> Maker:
    return Maker(world, tmp_path_factory.mktemp("things"))


@pytest.fixture(scope="module")
def story(world: World, maker: Maker) -> Story:
    return tell(world, maker, "")
