"""Whole registries for tests: in process, and served over HTTP on loopback."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from threading import RLock
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from sqlalchemy import make_url

from registry.access.tokens import Tokens
from registry.app.application import create_app
from registry.app.services import Services
from registry.catalog.bases.finding import KnownBases
from registry.catalog.publishing.inspecting import find_ancestry
from registry.catalog.publishing.new_version import NewVersion
from registry.catalog.publishing.recording import record_pending
from registry.errors import Conflict
from registry.principal import LOCAL, SYSTEM, Principal, Role
from registry.queue import NoQueue
from registry.settings import Settings
from registry.storage import Storage
from sdk.api.embedded import EmbeddedTransport
from sdk.api.transport import VERSION, VERSION_HEADER, Transport
from sdk.client import Client
from sdk.config import Config, load
from sdk.schemas.access import NewToken
from sdk.schemas.catalog import Publication
from support.migrated import migrated_file

#: A lease that a test can see the end of, in seconds.
SHORT_LEASE_S = 0.15


class made_once(cached_property):  # noqa: N801 - it is used as the property that it is
    """A cached property that is the same for threads that come at once: each client has connections to be closed."""

    _making = RLock()

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        """Return the cached value, or make it while others wait."""
        with self._making:
            return super().__get__(instance, owner)


class InProcess(Transport):
    """The embedded transport over a given application, so that no runner takes the test's jobs."""

    def __init__(self, config: Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    def _open(self) -> httpx.Client:
        headers = {VERSION_HEADER: VERSION}
        return httpx.Client(transport=EmbeddedTransport(self._app), base_url="http://embedded", headers=headers)


@dataclass
class World:
    """One registry, and how to reach it in each role."""

    app: FastAPI
    url: str
    folder: Path

    @property
    def services(self) -> Services:
        """The services behind the API."""
        return self.app.state.services

    @property
    def has_roles(self) -> bool:
        """Whether tokens are needed."""
        return self.services.settings.auth == "token"

    @made_once
    def impatient(self) -> Services:
        """A second process of this registry, whose leases end almost at once."""
        settings = replace(self.services.settings, lease_s=SHORT_LEASE_S)
        return Services(settings, storage=self.services.artifacts.storage, queue=NoQueue())

    @made_once
    def writer(self) -> Client:
        """A client that may write."""
        return self.client(Role.WRITER)

    @made_once
    def admin(self) -> Client:
        """A client that may do everything, such as publish bases for all namespaces."""
        return self.client(Role.ADMIN)

    @made_once
    def worker(self) -> Client:
        """A client that may claim jobs."""
        return self.client(Role.WORKER)

    def announce(self, publication: Publication, who: Principal) -> None:
        """Get as far as a publisher who is killed while the bytes are read."""
        new = NewVersion(publication, who, None, [])
        with self.services.db.write() as session:
            record_pending(session, new, find_ancestry(session, new, KnownBases()))

    def client(self, role: Role, *, namespace: str = "*") -> Client:
        """Open a client with a new token of `role` in a namespace ("-": names without one), or in all."""
        cache = self.folder / "cache"
        if not self.has_roles:
            return Client(cache=cache, transport=InProcess(load(self.url), self.app))
        return Client(self.url, self.token(role, namespace=namespace), cache=cache)

    def token(self, role: Role, *, namespace: str = "*") -> str:
        """Make a token of `role`, called "some writer" or "some writer 2"; return its secret."""
        return named_anew(self.services.tokens, f"some {role.value}", {namespace: role}, who=SYSTEM).secret

    def principal(self, role: Role) -> Principal:
        """The principal of `writer` or `worker`, or of somebody with another role."""
        if not self.has_roles:
            return LOCAL
        client = {Role.WRITER: self.writer, Role.WORKER: self.worker}.get(role)
        if client is None:
            return Principal(f"some {role.value}", {"*": role})
        return self.services.tokens.check(client.config.token)

    @made_once
    def http(self) -> httpx.Client:
        """Bare HTTP with an admin's token, for requests that the SDK would not send."""
        if not self.has_roles:
            return InProcess(load(self.url), self.app)._open()
        return httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {self.token(Role.ADMIN)}"}, timeout=30
        )

    def close(self) -> None:
        """Let go of every connection."""
        for name in ("writer", "admin", "worker", "http"):
            if name in self.__dict__:
                self.__dict__[name].close()
        if "impatient" in self.__dict__:
            self.impatient.db.close()
        self.services.db.close()
        self.services.artifacts.storage.close()


def named_anew(tokens: Tokens, name: str, grants: Mapping[str, Role], *, who: Principal) -> NewToken:
    """Make a token with this name, followed by a number if one in use has it already."""
    for number in itertools.count(2):
        try:
            return tokens.create(name=name if number == 2 else f"{name} {number - 1}", grants=grants, who=who)
        except Conflict:
            continue
    raise AssertionError("numbers end")


def asked_for(request: pytest.FixtureRequest) -> World:
    """The registry that a parameter names as a fixture."""
    return request.getfixturevalue(request.param)


@contextmanager
def embedded(home: Path, *, database_url: str | None = None) -> Iterator[World]:
    """The registry as with `local:HOME`: in process, SQLite unless another database is given, a folder, no tokens."""
    home.mkdir(parents=True)
    settings = Settings(
        database_url=database_url or migrated_file(home / "registry.sqlite3"),
        storage_url=(home / "artifacts").as_uri(),
        auth="none",
        embedded_home=str(home),
    )
    world = World(create_app(settings, queue=NoQueue()), f"local:{home}", home)
    world.services.db.upgrade()
    try:
        yield world
    finally:
        world.close()


@contextmanager
def served(
    folder: Path,
    *,
    database_url: str | None = None,
    storage_url: str | None = None,
    storage: Storage | None = None,
    **changed: Any,
) -> Iterator[World]:
    """A registry behind a real HTTP server, with tokens, over SQLite and a folder unless others are given.

    `changed` are settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    database_url = database_url or f"sqlite:///{folder / 'registry.sqlite3'}"
    storage_url = storage_url or (folder / "artifacts").as_uri()
    file = make_url(database_url).database
    if database_url.startswith("sqlite") and file is not None and not Path(file).exists():
        migrated_file(Path(file))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        # Tests of all kinds send wrong tokens from one address.
        changed = {"failed_logins_per_minute": 100_000, **changed}
        settings = Settings(database_url=database_url, storage_url=storage_url, auth="token", public_url=url, **changed)
        world = World(create_app(settings, storage=storage, queue=NoQueue()), url, folder)
        world.services.db.upgrade()
        config = uvicorn.Config(
            world.app, log_level="error", lifespan="off", ws="none", http="httptools", timeout_graceful_shutdown=5
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield world
        finally:
            server.should_exit = True
            thread.join()
            world.close()
