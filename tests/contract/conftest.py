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
from support.registries import World
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
        storage = (folder / "artifacts").as_uri()
        found = stack.enter_context(registries.served(folder, database_url=url, storage_url=storage))
        found.admin.register_base(base_registration())
        yield found


@pytest.fixture(scope="module")
def common_base(people: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[BaseView, Path]:
    """A base of all namespaces with its files, and its folder: for tests in which nothing becomes of the base itself."""
    folder = write_base(tmp_path_factory.mktemp("common") / "base", value=value())
    return people.admin.add_base(folder, namespace="*", upload=True), folder


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
def strict(tmp_path: Path) -> Iterator[World]:
    """A registry that puts away what its admission refuses."""
    with registries.served(
        tmp_path / "strict",
        database_url=f"sqlite:///{tmp_path / 'strict.sqlite3'}",
        storage_url=(tmp_path / "strict-artifacts").as_uri(),
        gate="quarantine",
    ) as found:
        found.admin.register_base(base_registration())
        yield found
