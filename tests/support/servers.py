"""One PostgreSQL, one Valkey and one SeaweedFS for a whole run, also where several processes run its tests.

The first process that needs a server starts it, under a lock; the others find it by its folder. They keep apart by
names of databases, prefixes in the bucket, and numbers of Valkey's databases. The process that began the run ends them.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, TypeVar

import psycopg
import pytest
from psycopg import sql

from sdk.file_locks import locked
from sdk.stack.local_server import LocalServer
from sdk.stack.postgres import PostgresServer
from sdk.stack.seaweed import SeaweedServer
from sdk.stack.valkey import ValkeyServer
from support.forks import ForkServer, Run
from support.guard import Guard
from support.quick import IS_QUICK

ServerT = TypeVar("ServerT", bound=LocalServer)

#: The bucket of every test.
BUCKET = "adapterctl"
#: Longer than a server may take for its first start.
_PATIENCE_S = 180.0
#: Longer than pip may take for some small packages.
_INSTALLING_S = 600.0
_KEY: pytest.StashKey[RunServers] = pytest.StashKey()
_INPUT, _PID_INPUT = "adapterctl_servers", "adapterctl_run"


class TestPostgres(PostgresServer):
    """PostgreSQL that doesn't wait for the disk: tests needn't survive a power cut."""

    __test__ = False
    _UNSAFE: ClassVar = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, settings={**self._UNSAFE, "max_connections": "400"})

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make sure that only one process of the run does this at a time."""
        with locked(self.directory.parent / "use.lock", timeout_s=_PATIENCE_S):
            yield

    def create_database(self, name: str, *, template: str = "template0") -> str:
        """Create a database as a copy of another, and return its URL.

        Its files are copied: logging each of their pages, as is usual, takes four times as much CPU.
        """
        self._execute("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY", name, template)
        return self.url_of(name)

    def shorten_logins(self) -> None:
        """Have a connection's password hashed once instead of 4,096 times, which is most of the work of connecting."""
        with psycopg.connect(self.url.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute("SET scram_iterations = 1")
            password = sql.Literal(self.kept["password"])
            connection.execute(sql.SQL("ALTER ROLE CURRENT_USER PASSWORD {}").format(password))

    def rename_database(self, name: str, new_name: str) -> None:
        """Give a database that nobody uses another name."""
        self._execute("ALTER DATABASE {} RENAME TO {}", name, new_name)

    def drop_database(self, name: str) -> None:
        """Drop a database, and cut off anybody who still uses it."""
        self._execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)

    def _execute(self, statement: str, *names: str) -> None:
        with psycopg.connect(self.url.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


class RunServers:
    """The servers of a run, in one folder."""

    _KINDS: ClassVar[tuple[type[LocalServer], ...]] = (TestPostgres, ValkeyServer, SeaweedServer)

    def __init__(self, folder: Path, *, number: int = 0) -> None:
        self.folder = folder
        #: Which of the run's processes this is.
        self.number = number
        self._found: dict[type[LocalServer], LocalServer] = {}

    def use(self, kind: type[ServerT], *, prepare: Callable[[ServerT], None] = lambda _server: None) -> ServerT:
        """Return a running server; the process that starts it also prepares it."""
        if IS_QUICK:
            pytest.skip(f"needs {kind.name}, which only `make test` installs")
        if kind not in self._found:
            place = self.folder / kind.name
            place.mkdir(mode=0o711, exist_ok=True)
            with locked(place / "start.lock", timeout_s=_PATIENCE_S):
                server = kind(place / "home")
                server.start()
                if not (place / "prepared").exists():
                    prepare(server)
                    (place / "prepared").touch()
            self._found[kind] = server
        return self._found[kind]

    def make_once(self, name: str, make: Callable[[Path], None]) -> Path:
        """Return a folder that one of the run's processes makes, and the others find."""
        place = self.folder / name
        place.mkdir(mode=0o711, exist_ok=True)
        with locked(place / "make.lock", timeout_s=_INSTALLING_S):
            if not (place / "made").exists():
                make(place / "home")
                (place / "made").touch()
        return place / "home"

    def end(self) -> None:
        """End everything that any process of the run has started."""
        for kind in self._KINDS:
            if (self.folder / kind.name / "home").exists():
                server = kind(self.folder / kind.name / "home")
                if kind is SeaweedServer:
                    # One after the other takes three seconds.
                    server.stop_signals = ()
                server.stop()


def of_run(config: pytest.Config) -> RunServers:
    """Return the servers of the run that a process of tests belongs to."""
    return config.stash[_KEY]


def pytest_configure(config: pytest.Config) -> None:
    """Choose the folder of a new run, or take the one of the run that this process was started for."""
    given = getattr(config, "workerinput", None)
    if given is not None:
        number = int(given["workerid"].removeprefix("gw"))
        config.stash[_KEY] = RunServers(Path(given[_INPUT]), number=number)
        ForkServer.run_of_tests = Run(Path(given[_INPUT]), given[_PID_INPUT])
        return
    # Not pytest's tmp_path: it is closed to the unprivileged user that PostgreSQL runs as under root.
    folder = Path(tempfile.mkdtemp(prefix="adapterctl-servers-"))
    folder.chmod(0o711)
    config.stash[_KEY] = servers = RunServers(folder)
    ForkServer.run_of_tests = Run(folder, os.getpid())
    guard = Guard()
    guard.watch(None, folder)
    # Last in, first out.
    config.add_cleanup(guard.end)
    config.add_cleanup(servers.end)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: object) -> None:
    """Tell a process of tests, as it is started, where the servers of the run are."""
    node.workerinput[_INPUT] = str(of_run(node.config).folder)  # type: ignore[attr-defined]
    node.workerinput[_PID_INPUT] = os.getpid()  # type: ignore[attr-defined]
