"""Pytest fixtures over the real servers of a run. Each starts when the first test asks for it."""

from __future__ import annotations

import importlib
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import pytest
import redis

from registry.storage import S3Options
from sdk.stack.local_server import LocalServer
from sdk.stack.seaweed import SeaweedServer
from sdk.stack.valkey import ValkeyServer
from support import servers
from support.guard import Guard
from support.migrated import migrated_database
from support.servers import BUCKET, TestPostgres

ServerT = TypeVar("ServerT", bound=LocalServer)
Limits = Callable[..., None]


@dataclass(frozen=True)
class S3Place:
    """A prefix of a bucket that no other test uses, and the keys to it."""

    endpoint_url: str
    bucket: str
    prefix: str
    region: str
    access_key: str
    secret_key: str = field(repr=False)

    @property
    def url(self) -> str:
        """The place as a storage URL."""
        return f"s3://{self.bucket}/{self.prefix}"

    @property
    def options(self) -> S3Options:
        """How to use the place."""
        return S3Options(
            endpoint_url=self.endpoint_url, region=self.region, access_key=self.access_key, secret_key=self.secret_key
        )


@pytest.fixture(scope="session")
def run_server() -> Iterator[Callable[[Callable[[Path], ServerT]], ServerT]]:
    """Return a function that starts a server in a folder of its own and makes sure that it ends."""
    servers: list[LocalServer] = []
    with Guard() as guard:

        def run(make: Callable[[Path], ServerT]) -> ServerT:
            # Not pytest's tmp_path: it is closed to the unprivileged user that PostgreSQL runs as under root.
            directory = Path(tempfile.mkdtemp(prefix="adapterctl-server-"))
            directory.chmod(0o711)
            server = make(directory / "home")
            servers.append(server)
            server.start()
            guard.watch(server.pid, directory)
            return server

        yield run
        for server in servers:
            server.stop()


@pytest.fixture(scope="session")
def postgres_server(request: pytest.FixtureRequest) -> TestPostgres:
    """The run's PostgreSQL."""
    return servers.of_run(request.config).use(TestPostgres, prepare=TestPostgres.shorten_logins)


@pytest.fixture
def empty_postgres_database(postgres_server: TestPostgres) -> Iterator[str]:
    """The URL of a database without a schema, for one test."""
    name = f"test_{uuid.uuid4().hex}"
    yield postgres_server.create_database(name)
    postgres_server.drop_database(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database of either kind without a schema."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'registry.sqlite3'}"
    return str(request.getfixturevalue("empty_postgres_database"))


@pytest.fixture
def postgres_database(postgres_server: TestPostgres) -> Iterator[str]:
    """The URL of a database with an empty schema, for one test."""
    name = f"test_{uuid.uuid4().hex}"
    yield migrated_database(postgres_server, name)
    postgres_server.drop_database(name)


@pytest.fixture(scope="session")
def valkey_server(request: pytest.FixtureRequest) -> ValkeyServer:
    """The run's Valkey, with a password and an append-only file."""
    return servers.of_run(request.config).use(ValkeyServer)


@pytest.fixture(scope="session")
def valkey_url(valkey_server: ValkeyServer, request: pytest.FixtureRequest) -> str:
    """The URL of a database in Valkey that only this process uses, with anything that earlier tests left in it."""
    return f"{valkey_server.url.removesuffix('/0')}/{servers.of_run(request.config).number}"


@pytest.fixture
def empty_valkey_url(valkey_url: str) -> str:
    """The URL of an empty database in Valkey."""
    with redis.Redis.from_url(valkey_url) as client:
        client.flushdb()
    return valkey_url


@pytest.fixture(scope="session")
def s3_server(request: pytest.FixtureRequest) -> SeaweedServer:
    """The run's SeaweedFS, with one bucket."""
    return servers.of_run(request.config).use(SeaweedServer, prepare=lambda server: server.create_bucket(BUCKET))


@pytest.fixture
def s3(s3_server: SeaweedServer) -> S3Place:
    """A place in S3 for one test."""
    return S3Place(
        endpoint_url=s3_server.url,
        bucket=BUCKET,
        prefix=f"test-{uuid.uuid4().hex}",
        region=s3_server.region,
        access_key=s3_server.access_key,
        secret_key=s3_server.secret_key,
    )


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Limits:
    """Let constants of a module, which nobody sets but a test, have other values: `limits(module, _MOST_ROWS=3)`."""

    def set_limits(module: ModuleType | str, **values: Any) -> None:
        of = importlib.import_module(module) if isinstance(module, str) else module
        for name, value in values.items():
            monkeypatch.setattr(of, name, value)

    return set_limits
