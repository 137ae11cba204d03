"""The runner of an embedded registry, told to end in the midst of a training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import processes, registries
from support.registries import World
from support.workplace import Running, Workplace, is_alive, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with registries.embedded(tmp_path / "home") as world:
        yield world


@pytest.fixture
def place(world: World, tmp_path: Path) -> Workplace:
    return Workplace(world, tmp_path)


@pytest.fixture
def job(place: Workplace) -> str:
    return place.submit()


@pytest.fixture
def runner(world: World, job: str, tmp_path: Path) -> Iterator[Running]:
    """The runner as the registry starts it, once a job waits."""
    environment = processes.environment(
        ADAPTERCTL_URL=world.url, ADAPTERCTL_CACHE=str(tmp_path / "cache"), HOME=str(tmp_path)
    )
    log = tmp_path / "runner.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "workers.entry.local_runner"],
            env=environment,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    running = Running(process, log)
    yield running
    running.kill()


def test_it_gives_its_job_back_with_a_checkpoint(place: Workplace, job: str, runner: Running) -> None:
    place.wait_for_step(job, 3)
    child = runner.child()
    runner.signal(signal.SIGTERM)
    assert runner.status() == 0, runner.text
    assert not is_alive(child)
    assert [attempt.state for attempt in place.attempts(job)] == ["released"]
    assert place.checkpoints(job)[0].step >= 3
    # Nobody but it wrote there.
    assert "Traceback" not in runner.text


def test_killed_it_leaves_no_child(place: Workplace, job: str, runner: Running) -> None:
    child = runner.child_at_work()
    os.kill(runner.process.pid, signal.SIGKILL)
    runner.process.wait()
    wait_until(lambda: not is_alive(child), lambda: f"{child} goes on", 60)
