"""A worker under Celery over a real broker: looked at while it trains, told to end in each way, and killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import processes
from support.workplace import Running, Workplace, is_alive, opened, wait_until

from registry.queue import open_queue

pytestmark = pytest.mark.slow


class Place(Workplace):
    """A workplace with a broker."""

    broker_url: str

    def train(self, **options: int) -> str:
        """Submit a training and say so."""
        job = self.submit(**options)
        open_queue(self.broker_url).announce(job, "training")
        return job


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, valkey_url: str) -> Iterator[Place]:
    with opened(tmp_path_factory.mktemp("celery"), kind=Place, lease_s=30.0) as place:
        place.broker_url = valkey_url
        yield place


@pytest.fixture
def worker(place: Place, empty_valkey_url: str) -> Iterator[Running]:
    with place.worker("--queue", "gpu", "--name", "gpu-1", REGISTRY_BROKER_URL=empty_valkey_url) as worker:
        wait_until(lambda: "ready." in worker.text, lambda: worker.text)
        yield worker


def inspect(place: Place, what: str) -> dict[str, object]:
    """Ask as an operator does; return the one worker's answer."""
    # Asking one by name, nobody waits for others that might answer too.
    whom = f"gpu-1@{socket.gethostname()}"
    tool = str(processes.BIN / "celery")
    command = [
        tool,
        "-A",
        "workers.entry.celery_app",
        "inspect",
        what,
        "--json",
        "--timeout",
        "60",
        "--destination",
        whom,
    ]
    asked = subprocess.run(
        command,
        env=place.environment(REGISTRY_BROKER_URL=place.broker_url),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert asked.returncode == 0, asked.stderr + asked.stdout
    answers: dict[str, dict[str, object]] = json.loads(asked.stdout)
    ((name, answer),) = answers.items()
    assert name == whom
    return answer


def test_it_can_be_looked_at_while_it_trains(place: Place, worker: Running) -> None:
    job = place.train()
    place.wait_for_step(job)
    assert inspect(place, "ping") == {"ok": "pong"}
    (active,) = inspect(place, "active")
    assert (active["name"], active["args"]) == ("adapterctl.work", [job])  # type: ignore[index]
    assert inspect(place, "registered") == ["adapterctl.work"]
    (queue,) = inspect(place, "active_queues")
    assert queue["name"] == "gpu"  # type: ignore[index]
    known = next(known for known in place.workers() if known.name == "gpu-1")
    assert (known.state, known.job, known.queues) == ("busy", job, ["gpu"])
    place.client.cancel_job(job)
    place.wait_for_state(job, "cancelled")


def test_one_that_waits_is_known_and_goes_at_once(place: Place, worker: Running) -> None:
    def state() -> str:
        return next((known.state for known in place.workers() if known.name == "gpu-1"), "unknown")

    wait_until(lambda: state() == "idle", lambda: f"{state()}\n{worker.text}")
    worker.signal(signal.SIGTERM)
    assert worker.status() == 0
    assert state() == "draining"


@pytest.mark.parametrize("told", ["the main process", "all processes", "the main process by Ctrl-C"])
def test_told_to_end_it_gives_its_job_back_with_a_checkpoint(place: Place, worker: Running, told: str) -> None:
    job = place.train()
    place.wait_for_step(job, 3)
    pool_process, child = worker.pool_process(), worker.child()
    if told == "all processes":
        # As a service manager does that signals its whole control group.
        for pid in (child, pool_process, worker.process.pid):
            os.kill(pid, signal.SIGTERM)
    else:
        worker.signal(signal.SIGINT if "Ctrl-C" in told else signal.SIGTERM)
    assert worker.status() == 0
    assert not is_alive(child)
    wait_until(lambda: not is_alive(pool_process), lambda: "the pool process goes on", 60)
    assert [attempt.state for attempt in place.attempts(job)] == ["released"]
    assert place.job(job).state == "queued"
    assert [checkpoint.step >= 3 for checkpoint in place.checkpoints(job)] == [True]
    assert not list((place.folder / "worker-cache").glob("stop-*"))
    place.client.cancel_job(job)


def test_told_twice_it_waits_for_nobody(place: Place, worker: Running) -> None:
    job = place.train()
    place.wait_for_step(job)
    child = worker.child()
    # It can't write a checkpoint now.
    os.kill(child, signal.SIGSTOP)
    worker.signal(signal.SIGTERM)
    wait_until(lambda: bool(list((place.folder / "worker-cache").glob("stop-*"))), lambda: worker.text)
    worker.signal(signal.SIGTERM)
    assert worker.status() == 0
    assert not is_alive(child)
    assert place.attempts(job)[0].state == "released"
    place.client.cancel_job(job)


def test_a_killed_main_process_leaves_nothing_running(place: Place, worker: Running) -> None:
    job = place.train()
    place.wait_for_step(job)
    below = [worker.pool_process(), worker.child()]
    worker.signal(signal.SIGKILL)
    wait_until(lambda: not any(is_alive(pid) for pid in below), lambda: f"{below} go on", 60)
    place.client.cancel_job(job)


def test_a_pool_process_that_is_told_alone_is_replaced(place: Place, worker: Running) -> None:
    job = place.train()
    place.wait_for_step(job)
    before = worker.pool_process()
    os.kill(before, signal.SIGTERM)
    wait_until(lambda: place.attempts(job)[0].state == "released", lambda: worker.text)
    wait_until(lambda: not is_alive(before), lambda: worker.text)
    # The next message finds another.
    open_queue(place.broker_url).announce(job, "training")
    wait_until(lambda: place.job(job).attempt == 2, lambda: worker.text)
    assert worker.pool_process() != before
    place.client.cancel_job(job)
    place.wait_for_state(job, "cancelled")


def test_a_spare_waits_in_the_pool_process_and_is_replaced_after_the_job(
    place: Place, empty_valkey_url: str, tmp_path: Path
) -> None:
    environment = {"REGISTRY_BROKER_URL": empty_valkey_url, "ADAPTER_WORKER_WARM": "1"}
    with place.worker("--name", "gpu-1", **environment) as worker:
        spare = worker.child()
        job = place.train(steps=3)
        place.wait_for_state(job, "succeeded")
        wait_until(lambda: not is_alive(spare), lambda: worker.text)
        assert f"child {spare}: started" in worker.text
        assert worker.child() != spare
        below = list(worker.below())
        worker.signal(signal.SIGTERM)
        assert worker.status() == 0
        # They end with it, each in its own moment.
        wait_until(lambda: not any(is_alive(pid) for pid in below), lambda: f"{below} go on", 60)
