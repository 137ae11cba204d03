"""A worker under Celery over a real broker: looked at while it trains, told to end in each way, and killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import redis
from celery import Celery
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
        open_queue(self.broker_url).announce(job, "gpu")
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
    command = [str(processes.BIN / "celery"), "-A", "workers.entry.celery_app", "inspect", what, "--json"]
    asked = processes.finished(
        *command,
        "--timeout",
        "60",
        "--destination",
        whom,
        env=place.environment(REGISTRY_BROKER_URL=place.broker_url),
        timeout_s=240,
    )
    assert asked.returncode == 0, asked.stderr + asked.stdout
    answers: dict[str, dict[str, object]] = json.loads(asked.stdout)
    ((name, answer),) = answers.items()
    assert name == whom
    return answer


def test_it_can_be_looked_at_while_it_trains_and_the_next_hint_is_left_for_others(
    place: Place, worker: Running
) -> None:
    job = place.train()
    place.wait_for_step(job)
    second = place.train()
    assert inspect(place, "ping") == {"ok": "pong"}
    # What is asked in this process is answered by the same worker.
    with Celery(broker=place.broker_url, set_as_current=False) as app:
        whom = f"gpu-1@{socket.gethostname()}"
        asked = app.control.inspect(destination=[whom], timeout=60)
        ((active,),) = asked.active().values()
        assert (active["name"], active["args"]) == ("adapterctl.work", [job])
        assert asked.registered() == {whom: ["adapterctl.work"]}
        ((queue,),) = asked.active_queues().values()
        assert queue["name"] == "gpu"
        assert asked.reserved() == {whom: []}
    known = next(known for known in place.workers() if known.name == "gpu-1")
    assert (known.state, known.job, known.queues) == ("busy", job, ["gpu"])
    with redis.Redis.from_url(place.broker_url) as broker:
        assert broker.llen("gpu") == 1
        assert broker.hlen("unacked") == 0
    place.client.jobs.cancel(job)
    place.wait_for_state(job, "cancelled")
    place.wait_for_state(second, "running")
    place.client.jobs.cancel(second)
    place.wait_for_state(second, "cancelled")


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_one_that_waits_is_known_and_goes_at_once(place: Place, worker: Running, told: signal.Signals) -> None:
    def state() -> str:
        return next((known.state for known in place.workers() if known.name == "gpu-1"), "unknown")

    wait_until(lambda: state() == "idle", lambda: f"{state()}\n{worker.text}")
    worker.signal(told)
    assert worker.status() == 0
    assert state() == "draining"


# One that waits goes at each of the three, and there is one handler.
@pytest.mark.parametrize("told", ["SIGQUIT", "all processes"])
def test_told_to_end_it_gives_its_job_back_with_a_checkpoint(place: Place, worker: Running, told: str) -> None:
    job = place.train()
    place.wait_for_step(job, 3)
    child = worker.child()
    if told == "all processes":
        # As a service manager does that signals its whole control group.
        for pid in (child, worker.process.pid):
            os.kill(pid, signal.SIGTERM)
    else:
        worker.signal(signal.Signals[told])
    assert worker.status() == 0
    assert not is_alive(child)
    assert [attempt.state for attempt in place.attempts(job)] == ["released"]
    assert place.job(job).state == "queued"
    assert [checkpoint.step >= 3 for checkpoint in place.checkpoints(job)] == [True]
    place.client.jobs.cancel(job)


def test_told_twice_it_waits_for_nobody(place: Place, worker: Running) -> None:
    job = place.train()
    child = worker.child_at_work()
    # It can't end by itself now.
    os.kill(child, signal.SIGSTOP)
    for times in (1, 2):
        worker.signal(signal.SIGTERM)
        wait_until(lambda times=times: worker.text.count("Warm shutdown") >= times, lambda: worker.text)  # type: ignore[misc]
    assert worker.status() == 0
    assert not is_alive(child)
    assert place.attempts(job)[0].state == "released"
    place.client.jobs.cancel(job)


def test_told_twice_it_ends_though_its_work_does_not(place: Place, empty_valkey_url: str) -> None:
    # A registry that takes a claim and never answers it.
    with socket.create_server(("127.0.0.1", 0)) as silent, ExitStack() as stack:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        worker = stack.enter_context(place.worker(ADAPTERCTL_URL=url, REGISTRY_BROKER_URL=empty_valkey_url))
        wait_until(lambda: "ready." in worker.text, lambda: worker.text)
        job = place.train()
        # Others of its threads may ask for something, too.
        while b"/jobs/claim" not in stack.enter_context(silent.accept()[0]).recv(65_536):
            continue
        for times in (1, 2):
            worker.signal(signal.SIGTERM)
            wait_until(lambda times=times: worker.text.count("Warm shutdown") >= times, lambda: worker.text)  # type: ignore[misc]
        assert worker.status() == 1
        place.client.jobs.cancel(job)


def test_a_killed_worker_leaves_nothing_running(place: Place, worker: Running) -> None:
    job = place.train()
    child = worker.child_at_work()
    worker.signal(signal.SIGKILL)
    wait_until(lambda: not is_alive(child), lambda: f"{child} goes on", 60)
    place.client.jobs.cancel(job)


def test_a_spare_waits_for_each_of_many_jobs_and_ends_with_its_worker(place: Place, empty_valkey_url: str) -> None:
    environment = {"REGISTRY_BROKER_URL": empty_valkey_url, "ADAPTER_WORKER_WARM": "1"}
    with place.worker("--name", "gpu-1", **environment) as worker:
        used = []
        for _ in range(2):
            warm = worker.child()
            # It has nothing to do for a while.
            time.sleep(1)
            job = place.train(steps=3)
            place.wait_for_state(job, "succeeded")
            wait_until(lambda warm=warm: not is_alive(warm), lambda: worker.text)  # type: ignore[misc]
            assert f"job={job} attempt=1 child {warm}: started" in worker.text
            used.append(warm)
        waiting = worker.child()
        assert waiting not in used
        assert "starts cold" not in worker.text
        worker.signal(signal.SIGKILL)
        wait_until(lambda: not is_alive(waiting), lambda: f"{waiting} goes on", 60)


def test_a_spare_ends_with_a_worker_that_is_told_to_end(place: Place, empty_valkey_url: str) -> None:
    environment = {"REGISTRY_BROKER_URL": empty_valkey_url, "ADAPTER_WORKER_WARM": "1"}
    with place.worker("--name", "gpu-1", **environment) as worker:
        wait_until(lambda: "ready." in worker.text, lambda: worker.text)
        warm = worker.child()
        worker.signal(signal.SIGTERM)
        assert worker.status() == 0
        assert not is_alive(warm)
