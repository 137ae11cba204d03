"""Pytest fixtures over real servers. Each server starts when the first test asks for it and serves the whole run."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest

from registry.storage import S3Options
from sdk.stack.local_server import LocalServer
from sdk.stack.postgres import PostgresServer
from sdk.stack.seaweed import SeaweedServer
from sdk.stack.valkey import ValkeyServer
from support.guard import Guard

ServerT = TypeVar("ServerT", bound=LocalServer)

_BUCKET = "adapterctl"


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
        """How the place is used."""
        return S3Options(
            endpoint_url=self.endpoint_url, region=self.region, access_key=self.access_key, secret_key=self.secret_key
        )


@pytest.fixture(scope="session")
def run_server() -> Iterator[Callable[[Callable[[Path], ServerT]], ServerT]]:
    """Return a function that starts a server in a folder of its own and sees to its end."""
    servers: list[LocalServer] = []
    with Guard() as guard:

        def run(make: Callable[[Path], ServerT]) -> ServerT:
            # Not pytest's tmp_path: that one is closed to the unprivileged user as whom root's PostgreSQL runs.
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
def postgres_server(run_server: Callable[[Callable[[Path], PostgresServer]], PostgresServer]) -> PostgresServer:
    """PostgreSQL, without the waits for a disk that tests need not survive the loss of."""
    settings = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "max_connections": "100"}
    return run_server(lambda directory: PostgresServer(directory, settings=settings))


@pytest.fixture(scope="session")
def postgres_url(postgres_server: PostgresServer) -> str:
    """The URL of the maintenance database of one PostgreSQL server."""
    return postgres_server.url


@pytest.fixture
def postgres_database(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of an empty database for one test."""
    name = f"test_{uuid.uuid4().hex}"
    yield postgres_server.create_database(name)
    postgres_server.drop_database(name)


@pytest.fixture(scope="session")
def valkey_server(run_server: Callable[[Callable[[Path], ValkeyServer]], ValkeyServer]) -> ValkeyServer:
    """Valkey with a password and an append-only file."""
    return run_server(ValkeyServer)


@pytest.fixture(scope="session")
def valkey_url(valkey_server: ValkeyServer) -> str:
    """The URL of one Valkey server, with whatever earlier tests left in it."""
    return valkey_server.url


@pytest.fixture
def empty_valkey_url(valkey_server: ValkeyServer) -> str:
    """The URL of one Valkey server that holds nothing."""
    valkey_server.flush()
    return valkey_server.url


@pytest.fixture(scope="session")
def s3_server(run_server: Callable[[Callable[[Path], SeaweedServer]], SeaweedServer]) -> SeaweedServer:
    """SeaweedFS with one bucket."""
    server = run_server(SeaweedServer)
    server.create_bucket(_BUCKET)
    return server


@pytest.fixture
def s3(s3_server: SeaweedServer) -> S3Place:
    """A place in S3 for one test."""
    return S3Place(
        endpoint_url=s3_server.url,
        bucket=_BUCKET,
        prefix=f"test-{uuid.uuid4().hex}",
        region=s3_server.region,
        access_key=s3_server.access_key,
        secret_key=s3_server.secret_key,
    )
