"""The servers start, keep their data and their ports, are adopted by a second run, and end."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

from sdk.process_starts import process_started_at
from sdk.stack.errors import ServerError
from sdk.stack.local_server import LocalServer
from sdk.stack.loopback import free_ports
from sdk.stack.postgres import PostgresServer
from sdk.stack.seaweed import SeaweedServer
from sdk.stack.valkey import ValkeyServer
from support.fixtures import S3Place
from support.waiting import wait_until

pytestmark = pytest.mark.slow

KINDS: list[type[LocalServer]] = [PostgresServer, ValkeyServer, SeaweedServer]


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that the unprivileged user that PostgreSQL runs as under root can reach."""
    directory = Path(tempfile.mkdtemp(prefix="adapterctl-home-"))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def ended() -> Iterator[Callable[[LocalServer], LocalServer]]:
    """Return a function that makes sure that a server is ended after the test."""
    servers: list[LocalServer] = []

    def end_later(server: LocalServer) -> LocalServer:
        servers.append(server)
        return server

    yield end_later
    for server in servers:
        server.stop()


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_is_adopted_restarted_and_ended(
    kind: type[LocalServer], home: Path, ended: Callable[[LocalServer], LocalServer]
) -> None:
    server = ended(kind(home / kind.name))
    server.start()
    pid, url = server.pid, server.url
    assert all(secret not in command_line_of(pid) for secret in secrets_of(server))

    second = ended(kind(home / kind.name))
    second.start()
    assert (second.pid, second.url) == (pid, url)
    second.stop()
    assert server.pid is None
    second.stop()

    # A kill leaves locks and a pid file behind, which must not be in the way.
    second.start()
    assert second.url == url
    assert second.pid not in {None, pid}
    os.kill(second.pid or 0, signal.SIGKILL)
    second.start()
    assert second.url == url


def secrets_of(server: LocalServer) -> list[str]:
    return [value for name, value in server.kept.items() if name in {"password", "secret_key", "internal_key"}]


def command_line_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")


def test_a_server_that_cannot_start_shows_its_log(home: Path, ended: Callable[[LocalServer], LocalServer]) -> None:
    server = ended(PostgresServer(home / "postgres", settings={"no_such_setting": "on"}))
    with pytest.raises(ServerError, match="no_such_setting"):
        server.start()
    assert server.pid is None


def test_a_port_that_another_program_has_taken_is_named(
    home: Path, ended: Callable[[LocalServer], LocalServer]
) -> None:
    server = ended(ValkeyServer(home))
    taken = server.ports[0]
    refused = pytest.raises(ServerError, match=f"listens on port {taken}.*to let new ports be chosen")
    with socket.create_server(("127.0.0.1", taken)), refused:
        server.start()
    server.start()
    assert server.pid is not None


def test_free_ports_are_different_and_so_are_their_twins() -> None:
    ports = free_ports(20, twin_offset=10_000)
    assert len({number for port in ports for number in (port, port + 10_000)}) == 40


def test_a_database_belongs_to_one_test(postgres_server: PostgresServer, empty_postgres_database: str) -> None:
    with psycopg.connect(empty_postgres_database.replace("+psycopg", "")) as connection:
        assert connection.execute("select count(*) from pg_tables where schemaname = 'public'").fetchone() == (0,)
        assert connection.execute("show server_encoding").fetchone() == ("UTF8",)
    wrong = empty_postgres_database.replace("+psycopg", "").replace(postgres_server.kept["password"], "wrong")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong)


def test_valkey_asks_for_its_password_and_forgets(valkey_server: ValkeyServer, empty_valkey_url: str) -> None:
    with socket.create_connection(("127.0.0.1", valkey_server.kept["port"]), timeout=5) as connection:
        connection.sendall(b"PING\r\n")
        assert connection.recv(100).startswith(b"-NOAUTH")
    assert valkey_server.kept["password"] in empty_valkey_url


def test_there_is_no_way_around_s3(s3_server: SeaweedServer, s3: S3Place) -> None:
    ports = s3_server.kept["ports"]
    assert s3.secret_key not in repr(s3)
    assert httpx.get(f"http://127.0.0.1:{ports['s3']}/{s3.bucket}").status_code == 403
    assert httpx.get(f"http://127.0.0.1:{ports['volume']}/1,01637037d6").status_code == 401
    for path in ("", "/buckets", f"/buckets/{s3.bucket}/"):
        assert httpx.get(f"http://127.0.0.1:{ports['filer']}{path}").status_code == 404


def test_servers_end_with_a_run_that_is_killed(home: Path) -> None:
    script = """
import os, sys, time
from pathlib import Path
from support.guard import Guard
from sdk.stack.valkey import ValkeyServer
home = Path(sys.argv[1])
server = ValkeyServer(home)
guard = Guard()
server.start()
guard.watch(server.pid, home)
print(server.pid, flush=True)
time.sleep(60)
"""
    directory = home / uuid.uuid4().hex
    command = [sys.executable, "-c", script, str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent, text=True) as run:
        pid = int(run.stdout.readline())
        assert process_started_at(pid) is not None
        run.kill()
    wait_until(lambda: process_started_at(pid) is None and not directory.exists(), timeout_s=10)
