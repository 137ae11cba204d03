"""Registries with people in them, over both databases. A module that has fixtures of these names uses its own."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support import registries
from support.adapters import base_registration
from support.databases import new_database
from support.merging_desk import MergingDesk, value
from support.migrated import migrated_database
from support.people import new_adapter
from support.registries import World
from support.servers import TestPostgres
from support.small import write_base
from support.tenants import Tenant

from registry.principal import LOCAL, Role
from sdk.client import Client
from sdk.schemas.catalog import BaseView


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def people(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp(request.param)
    with ExitStack() as stack:
        url = stack.enter_context(new_database(request.param, folder, request))
        found = stack.enter_context(registries.served(folder, database_url=url))
        found.admin.bases.register(base_registration())
        yield found


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with registries.embedded(tmp_path_factory.mktemp("embedded") / "home") as world:
        yield world


@pytest.fixture(scope="module")
def http_postgres(tmp_path_factory: pytest.TempPathFactory, postgres_server: TestPostgres) -> Iterator[World]:
    name = f"contract_{uuid.uuid4().hex}"
    database_url = migrated_database(postgres_server, name)
    with registries.served(tmp_path_factory.mktemp("postgres"), database_url=database_url) as world:
        yield world
    postgres_server.drop_database(name)


@pytest.fixture(scope="module", params=["embedded", "http_postgres"])
def world(request: pytest.FixtureRequest) -> World:
    """In process over SQLite, and over HTTP and PostgreSQL."""
    found = registries.asked_for(request)
    found.admin.bases.register(base_registration())
    return found


@pytest.fixture(scope="module")
def common_base(people: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[BaseView, Path]:
    """A base of all namespaces with its files, and its folder: for tests in which nothing becomes of the base itself."""
    folder = write_base(tmp_path_factory.mktemp("common") / "base", value=value())
    return people.admin.bases.add(folder, namespace="*", upload=True), folder


@pytest.fixture
def desk(acting: Callable[..., Client], space: str, tmp_path: Path, common_base: tuple[BaseView, Path]) -> MergingDesk:
    """A desk of a namespace with the common base."""
    return MergingDesk(acting(**{space: Role.WRITER}), acting(**{space: Role.WORKER}), space, tmp_path, *common_base)


@pytest.fixture
def own_desk(acting: Callable[..., Client], space: str, tmp_path: Path) -> MergingDesk:
    """A desk with a base of its own namespace."""
    return MergingDesk.open(acting(**{space: Role.WRITER}), acting(**{space: Role.WORKER}), space, tmp_path)


@pytest.fixture
def admin(people: World) -> Iterator[Client]:
    client = people.client(Role.ADMIN)
    yield client
    client.close()


@pytest.fixture
def acting(people: World) -> Iterator[Callable[..., Client]]:
    """Return a function that opens a client with a new token of roles by namespace, called "ci" where that is free."""
    opened: list[Client] = []

    def open_client(**grants: Role) -> Client:
        made = registries.named_anew(people.services.tokens, "ci", grants, who=LOCAL)
        opened.append(Client(people.url, made.secret, cache=people.folder / "cache"))
        return opened[-1]

    yield open_client
    for client in opened:
        client.close()


@pytest.fixture
def space() -> str:
    """A namespace that no other test has."""
    return f"team-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def name() -> str:
    """The name of an adapter that no other test has."""
    return f"adapter-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A folder with an adapter whose bytes nobody has."""
    return new_adapter(tmp_path)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n')
    return path


@pytest.fixture
def join(people: World, acting: Callable[..., Client], tmp_path: Path) -> Callable[[], Tenant]:
    def join() -> Tenant:
        space = f"team-{uuid.uuid4().hex[:10]}"
        return Tenant(acting(**{space: Role.WRITER}), space, tmp_path)

    return join


@pytest.fixture
def ours(join: Callable[[], Tenant]) -> Tenant:
    return join()


@pytest.fixture
def theirs(join: Callable[[], Tenant]) -> Tenant:
    return join()


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[World]:
    """A registry that puts away what its admission refuses."""
    with registries.served(tmp_path / "strict", gate="quarantine") as found:
        found.admin.bases.register(base_registration())
        yield found
