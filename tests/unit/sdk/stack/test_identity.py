"""Only the process that is meant is ever signalled, and nothing that it started outlives it unseen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.processes import SLEEP
from support.waiting import wait_until

from sdk import process_starts
from sdk.process_starts import process_started_at
from sdk.stack.identity import MARK_VARIABLE, Identity, new_mark

#: Starts a child in a session of its own, as a worker starts its trainings, says who it is, and sleeps.
PARENT = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "{SLEEP}"], start_new_session=True)
print(child.pid, flush=True)
{SLEEP}
"""


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """A function that starts Python code, which is ended after the test."""
    started: list[subprocess.Popen[str]] = []

    def run(code: str, mark: str = "") -> subprocess.Popen[str]:
        environment = {**os.environ, MARK_VARIABLE: mark}
        started.append(
            subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        )
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def test_a_pid_file_names_its_process_until_that_ends(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = start(SLEEP)
    (tmp_path / "x.pid").write_text(Identity.of(process.pid, "mark").text)
    found = Identity.read(tmp_path / "x.pid")
    assert found == Identity.of(process.pid, "mark")
    assert found.is_alive
    assert found.send(signal.SIGKILL)
    # It stays as a zombie until it is waited for, and has ended all the same.
    wait_until(lambda: not found.is_alive)
    assert not found.send(signal.SIGKILL)


def test_a_stranger_with_the_same_number_is_let_alone(start: Callable[..., subprocess.Popen[str]]) -> None:
    stranger = start(SLEEP)
    for started_at in ("", "12345", f"{process_started_at(stranger.pid)}0"):
        ours = Identity(stranger.pid, started_at, new_mark())
        assert not ours.is_alive
        assert not ours.send(signal.SIGKILL)
        assert ours.kill_rest() == 0
    assert stranger.poll() is None


def test_a_pid_file_of_before_a_reboot_names_nobody(
    start: Callable[..., subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start(SLEEP)
    before = Identity.of(process.pid)
    monkeypatch.setattr(process_starts, "boot_id", lambda: "another boot")
    assert not before.is_alive
    assert not before.send(signal.SIGKILL)
    assert process.poll() is None


def test_what_a_killed_process_left_is_found_by_its_mark(start: Callable[..., subprocess.Popen[str]]) -> None:
    mark = new_mark()
    parent, other = start(PARENT, mark), start(PARENT, new_mark())
    left, others = (int(process.stdout.readline()) for process in (parent, other) if process.stdout is not None)
    ours = Identity.of(parent.pid, mark)
    parent.kill()
    parent.wait()
    assert process_started_at(left) is not None
    assert ours.kill_rest() == 1
    wait_until(lambda: process_started_at(left) is None)
    assert process_started_at(others) is not None
    os.kill(others, signal.SIGKILL)


def test_without_a_mark_nothing_is_left_to_find(start: Callable[..., subprocess.Popen[str]]) -> None:
    process = start(SLEEP, "")
    assert Identity.of(process.pid).kill_rest() == 0
    assert process.poll() is None


@pytest.mark.parametrize("text", ["", "x", "\n\n"])
def test_a_broken_pid_file_names_nobody(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.pid"
    path.write_text(text)
    assert Identity.read(path) is None
    assert Identity.read(tmp_path / "missing.pid") is None
