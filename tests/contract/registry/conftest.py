"""Fixtures of these tests. Every registry keeps the one contract: in process over SQLite, over HTTP with SQLite, and
over PostgreSQL and S3.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from contract.registry.pulled import Pulled
from contract.registry.test_copies import Trained
from support import registries
from support.adapters import base_registration
from support.fixtures import S3Place
from support.migrated import migrated_database
from support.people import SEEDS
from support.registries import World
from support.servers import TestPostgres

from registry.storage import open_storage
from sdk.client import Client
from sdk.schemas.artifacts import DatasetView
from sdk.stack.seaweed import SeaweedServer


@pytest.fixture(scope="module")
def http_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("http")
    with registries.served(folder) as world:
        yield world


@pytest.fixture(scope="module")
def http_postgres_s3(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: TestPostgres, s3_server: SeaweedServer
) -> Iterator[World]:
    name = f"registry_{uuid.uuid4().hex}"
    place = S3Place(
        endpoint_url=s3_server.url,
        bucket="adapterctl",
        prefix=name,
        region=s3_server.region,
        access_key=s3_server.access_key,
        secret_key=s3_server.secret_key,
    )
    storage = open_storage(place.url, s3=place.options)
    database_url = migrated_database(postgres_server, name)
    folder = tmp_path_factory.mktemp("postgres")
    with registries.served(folder, database_url=database_url, storage_url=place.url, storage=storage) as world:
        yield world
    postgres_server.drop_database(name)


@pytest.fixture(scope="module", params=["embedded", "http_sqlite", "http_postgres_s3"])
def world(request: pytest.FixtureRequest) -> World:
    found = registries.asked_for(request)
    found.admin.bases.register(base_registration())
    return found


@pytest.fixture(scope="module", params=["http_sqlite", "http_postgres_s3"])
def guarded(request: pytest.FixtureRequest) -> World:
    """Registries that want a token."""
    return registries.asked_for(request)


@pytest.fixture
def writer(world: World) -> Client:
    return world.writer


@pytest.fixture(scope="module")
def rows(world: World, tmp_path_factory: pytest.TempPathFactory) -> DatasetView:
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "c", "completion": "d"}\n')
    return world.writer.datasets.add(path)


@pytest.fixture
def quiet(world: World) -> World:
    """A registry in which no job waits."""
    for state in ("queued", "running"):
        for job in world.writer.jobs(state=state, limit=1000):
            world.writer.jobs.cancel(job.id)
    return world


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with registries.embedded(tmp_path_factory.mktemp("there") / "elsewhere") as world:
        world.admin.bases.register(base_registration())
        yield world


@pytest.fixture
def pulled(there: World, tmp_path: Path) -> Pulled:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": f"{next(SEEDS)}", "completion": "b"}) + "\n")
    made = Trained(there, there.writer.datasets.add(rows, name="reviews"), tmp_path)
    return Pulled(there, made, there.writer.pull(made.version.ref, tmp_path / "pulled"))
