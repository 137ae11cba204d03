"""What a shell gets that asks what to offer: soon, and never an error."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import processes

from sdk.cli.completing.names_file import NamesFile
from sdk.config import Config

#: What somebody waits for at most after TAB.
MOST_S = 0.3
NAMES = [
    ("adapter", "code-review"),
    ("ref", "code-review@v2"),
    ("ref", "code-review@v10"),
    ("ref", "code-review@production"),
    ("adapter", "team/sql"),
    ("ref", "team/sql@v1"),
    ("job", "3f1c2a9b7d20"),
    ("base", "tiny-llama"),
    ("dataset", "rows"),
    ("sweep", "aabbccddeeff"),
]


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Variables of a registry in a folder, of which some names were seen."""
    url = f"local:{tmp_path / 'home'}"
    monkeypatch.setenv("ADAPTERCTL_CACHE", str(tmp_path / "cache"))
    NamesFile(Config(url)).add(NAMES)
    return processes.environment(HOME=str(tmp_path), ADAPTERCTL_URL=url, ADAPTERCTL_CACHE=str(tmp_path / "cache"))


def ask(line: str, env: dict[str, str], shell: str = "fish", **more: str) -> subprocess.CompletedProcess[str]:
    asked = {"_ADAPTERCTL_COMPLETE": f"{shell}_complete", "_ADAPTERCTL_LINE": line, **more}
    return processes.finished(processes.BIN / "adapterctl", env={**env, **asked})


def offers(line: str, env: dict[str, str], **more: str) -> list[str]:
    done = ask(line, env, **more)
    assert (done.returncode, done.stderr) == (0, "")
    return [row.split("\t")[1] for row in done.stdout.splitlines() if row]


def test_each_kind_of_argument_is_completed(env: dict[str, str]) -> None:
    expected = {
        "adapterctl sho": ["show"],
        "adapterctl show co": ["code-review"],
        "adapterctl show code-review@": [f"code-review@{each}" for each in ("production", "v10", "v2", "latest")],
        "adapterctl show --rows code-review@p": ["code-review@production"],
        "adapterctl versions ": ["team/sql", "code-review"],
        "adapterctl alias set code-review p": ["production"],
        "adapterctl alias set code-review production ": ["v10", "v2"],
        "adapterctl approve code-review@v2 --for ": ["production"],
        "adapterctl jobs show ": ["3f1c2a9b7d20"],
        "adapterctl sweep show ": ["aabbccddeeff"],
        "adapterctl plot sweep:": ["sweep:aabbccddeeff"],
        "adapterctl train x --base t": ["tiny-llama", "t"],
        "adapterctl train x --base ./t": ["./t"],
        "adapterctl train x --data=r": ["--data=rows", "r"],
        "adapterctl train x --method q": ["qlora"],
        "adapterctl eval base:": ["base:tiny-llama"],
        "adapterctl sweep x --opti": ["--optim"],
        "adapterctl decisions c": ["code-review"],
        "adapterctl decisions code-review --al": ["--alias"],
        "adapterctl sweep co": ["code-review"],
    }
    got = {line: offers(line, env) for line in expected}
    # What ends a list of a file's kind is what is typed of its name.
    assert {line: [each for each in found if each] for line, found in got.items()} == expected


def test_bash_gets_what_it_replaces(env: dict[str, str]) -> None:
    assert offers("adapterctl show code-review@p", env, shell="bash", _ADAPTERCTL_WORD="@p") == ["@production"]
    assert offers("adapterctl eval base:t", env, shell="bash", _ADAPTERCTL_WORD="t") == ["tiny-llama"]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "adapterctl nothing x",
        "adapterctl show '",
        "adapterctl train --rank x --",
        "adapterctl \x1b[2J $(reboot) ",
        "\\",
        "x" * 9000,
    ],
)
def test_whatever_is_typed_is_no_error(env: dict[str, str], line: str) -> None:
    done = ask(line, env)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert "$" not in done.stdout


@pytest.mark.parametrize(
    "wrong",
    [
        {"ADAPTERCTL_URL": "no url"},
        {"ADAPTERCTL_CACHE": "/dev/null"},
        {"_ADAPTERCTL_COMPLETE": ""},
        {"ADAPTERCTL_TOKEN": "a b"},
    ],
)
def test_whatever_is_set_is_no_error(env: dict[str, str], wrong: dict[str, str]) -> None:
    done = ask("adapterctl show c", {**env, **wrong}, **wrong)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def silent_server() -> Iterator[str]:
    """The URL of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_server_that_never_answers_is_not_waited_for(env: dict[str, str], silent_server: str) -> None:
    env = {**env, "ADAPTERCTL_URL": silent_server, "ADAPTERCTL_TOKEN": "actl_x"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = []
    for _ in range(3):
        began = time.monotonic()
        assert offers("adapterctl show c", env) == []
        took.append(time.monotonic() - began)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # What others take of the processor isn't this program's: its own share holds on any machine, what somebody waits for
    # holds on a quiet one.
    assert (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 3 < 0.2
    assert min(took) < (MOST_S if os.getloadavg()[0] < (os.cpu_count() or 1) / 2 else 5)


def test_little_is_imported(env: dict[str, str]) -> None:
    asked = {"_ADAPTERCTL_COMPLETE": "bash_complete", "_ADAPTERCTL_LINE": "adapterctl train x --base "}
    script = processes.BIN / "adapterctl"
    done = processes.finished(sys.executable, "-X", "importtime", script, env={**env, **asked})
    imported = {row.rpartition("|")[2].strip() for row in done.stderr.splitlines()}
    assert "click" in imported
    assert not imported & {"httpx", "pydantic", "rich", "yaml", "numpy", "sdk.client", "asyncio", "http.client"}


def test_variable_alone_does_nothing_to_a_command_that_is_not_asked(env: dict[str, str]) -> None:
    assert "_ADAPTERCTL_COMPLETE" not in os.environ
    assert processes.finished(processes.BIN / "adapterctl", "--version", env=env).stdout.startswith("adapterctl ")
