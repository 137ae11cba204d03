"""`adapter-registry` as an operator meets it: what it prints, and how it exits."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from support import processes

from registry.db.database import Database, head_revision
from registry.ops.cli import main


def adapter_registry(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return processes.run("adapter-registry", *arguments, env=processes.environment(**env), timeout_s=60)


def refused_here(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """As `adapter_registry`, in this process: for what is refused before anything is opened."""
    before, argv = dict(os.environ), sys.argv
    os.environ.clear()
    os.environ.update(processes.environment(**env))
    sys.argv = ["adapter-registry", *arguments]
    code = 0
    try:
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
            try:
                main()
            except SystemExit as ended:
                code = int(ended.code or 0)
    finally:
        sys.argv = argv
        os.environ.clear()
        os.environ.update(before)
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {
        "REGISTRY_DATABASE_URL": f"sqlite:///{tmp_path / 'registry.sqlite3'}",
        "REGISTRY_STORAGE_URL": (tmp_path / "artifacts").as_uri(),
    }


@pytest.fixture
def migrated(env: dict[str, str]) -> dict[str, str]:
    database = Database(env["REGISTRY_DATABASE_URL"])
    database.upgrade()
    database.close()
    return env


def one_line(said: subprocess.CompletedProcess[str]) -> str:
    """The one line of a refusal; nothing of it is on stdout."""
    assert said.stdout == ""
    (line,) = said.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def test_the_schema_is_upgraded_and_checked(env: dict[str, str]) -> None:
    early = adapter_registry("db", "check", **env)
    assert early.returncode == 9
    assert "run: adapter-registry db upgrade" in one_line(early)
    for command in ("upgrade", "check"):
        said = adapter_registry("db", command, **env)
        assert (said.returncode, said.stdout.strip()) == (0, head_revision()), said.stderr


def test_a_schema_that_differs_is_named(migrated: dict[str, str]) -> None:
    database = Database(migrated["REGISTRY_DATABASE_URL"])
    with database.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE workers")
    database.close()
    said = adapter_registry("db", "check", **migrated)
    assert said.returncode == 2
    assert "workers" in one_line(said)


def test_tokens_are_made_listed_and_revoked(migrated: dict[str, str]) -> None:
    made = adapter_registry("token", "create", "--role", "worker", "--name", "gpu-1", "--days", "30", **migrated)
    assert made.returncode == 0
    secret = made.stdout.strip()
    assert secret.startswith("actl_")
    assert secret not in made.stderr
    listed = adapter_registry("token", "list", **migrated)
    (token,) = json.loads(listed.stdout)
    assert (token["name"], token["revoked_at"]) == ("gpu-1", None)
    assert token["grants"] == [{"namespace": "*", "role": "worker"}]
    assert token["id"] in made.stderr
    assert secret not in listed.stdout
    assert adapter_registry("token", "revoke", token["id"], **migrated).returncode == 0
    assert json.loads(adapter_registry("token", "list", **migrated).stdout)[0]["revoked_at"]
    unknown = adapter_registry("token", "revoke", "nobody", **migrated)
    assert unknown.returncode == 3
    assert "token list" in one_line(unknown)


def test_a_taken_port_is_said_in_one_line(migrated: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        said = adapter_registry("serve", "--port", str(port), **migrated)
    assert said.returncode == 9
    assert f"port {port} on 127.0.0.1" in one_line(said)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_no_tokens_are_for_loopback_alone(migrated: dict[str, str], host: str) -> None:
    said = refused_here("serve", "--host", host, "--port", "1", REGISTRY_AUTH="none", **migrated)
    assert said.returncode == 2
    assert "loopback only" in one_line(said)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"REGISTRY_DATABASE_URL": ""}, "REGISTRY_DATABASE_URL is not set"),
        ({"REGISTRY_DATABASE_URL": "mysql://host/x"}, "postgresql://"),
        ({"REGISTRY_LEASE_S": "soon"}, "REGISTRY_LEASE_S"),
    ],
)
def test_a_bad_setting_is_a_usage_error_in_one_line(
    migrated: dict[str, str], change: dict[str, str], named: str
) -> None:
    said = refused_here("db", "upgrade", **(migrated | change))
    assert said.returncode == 2
    assert named in one_line(said)


def test_a_database_that_is_away_is_unavailable(env: dict[str, str]) -> None:
    said = adapter_registry("db", "upgrade", **(env | {"REGISTRY_DATABASE_URL": "postgresql://u@127.0.0.1:1/x"}))
    assert said.returncode == 9
    assert "can't be reached" in one_line(said)


def test_a_bad_option_is_a_usage_error() -> None:
    for arguments in (["serve", "--port", "0"], ["token", "create", "--role", "king"], ["nothing"]):
        said = refused_here(*arguments)
        assert said.returncode == 2
        assert "Error" in said.stderr
    assert refused_here("--help").returncode == 0


def test_reconciling_says_what_it_did(migrated: dict[str, str]) -> None:
    said = adapter_registry("reconcile", "--once", **(migrated | {"REGISTRY_PUBLIC_URL": "http://127.0.0.1:1"}))
    steps = (
        "requeued",
        "sweeps_advanced",
        "promotions_begun",
        "announced",
        "expired_checkpoints",
        "forgotten_workers",
        "expired_rows",
        "checks_begun",
        "picks_begun",
    )
    assert json.loads(said.stdout) == dict.fromkeys(steps, 0), said.stderr


@pytest.mark.slow
def test_a_server_answers_and_ends_when_told(migrated: dict[str, str], tmp_path: Path) -> None:
    port = processes.free_port()
    log = tmp_path / "server.log"
    env = processes.environment(**migrated)
    with processes.running("adapter-registry", "serve", "--port", str(port), env=env, log=log) as process:
        processes.wait_until_healthy(f"http://127.0.0.1:{port}", log=log)
    assert process.returncode in (0, -15)
    assert "Traceback" not in log.read_text()


def test_the_registry_is_made_read_only_and_told_so(migrated: dict[str, str]) -> None:
    def read_only(*arguments: str) -> str:
        done = adapter_registry("read-only", *arguments, **migrated)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert read_only("show") == "off"
    assert read_only("on", "--reason", "moving the database") == "on: moving the database"
    collected = adapter_registry("gc", **migrated)
    assert collected.returncode == 9
    assert "read-only" in collected.stderr
    assert adapter_registry("gc", "--dry-run", **migrated).returncode == 0
    assert read_only("off") == "off"
