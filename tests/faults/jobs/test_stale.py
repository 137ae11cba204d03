"""Whoever has lost a job and does not know it changes nothing: by its calls, and as a worker that wakes up late."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.jobs.ledger import Ledger
from faults.jobs.parts import tree
from faults.jobs.stack import STEPS, Stack
from faults.plans import Head
from sqlalchemy import select
from support.adapters import SPEC, base_registration, digest
from support.soak import scale
from support.working import Held
from support.workplace import is_alive, wait_until

from registry.catalog.models import Adapter, Origin, Version
from registry.jobs.models import Attempt, Checkpoint, Job, JobEvent
from sdk.client import Client
from sdk.errors import StaleAttempt
from sdk.schemas.job_requests import BaseChoice, TrainingRequest
from sdk.schemas.jobs import JobState, JobSubmission, JobView, Needs

pytestmark = [pytest.mark.soak, pytest.mark.slow]

#: More than any machine has, so that no worker takes these jobs but those of the test.
MEMORY_BYTES = 2**50
CALLS: dict[str, Callable[[Held], object]] = {
    "heartbeat": lambda held: held.report(),
    "checkpoint": lambda held: held.checkpoint(10, 30),
    "release": lambda held: held.release(),
    "fail": lambda held: held.fail(),
    "complete": lambda held: held.complete(),
}


@pytest.fixture
def worker(stack: Stack, tmp_path: Path) -> Iterator[Client]:
    worker = Client(stack.registry.url, stack.token, cache=tmp_path / "cache")
    yield worker
    worker.close()


def test_each_call_of_each_stale_attempt_is_refused(stack: Stack, worker: Client, tmp_path: Path) -> None:
    stack.client.bases.register(base_registration())
    jobs = [_submit(stack, f"stale-{number}") for number in range(scale(80))]
    late = {held.job: held for held in (_claim(worker, tmp_path, "late") for _ in jobs)}
    assert set(late) == set(jobs)
    wait_until(
        lambda: all(stack.row(job).state == JobState.QUEUED for job in jobs), lambda: "they are held without heartbeats"
    )
    for _ in jobs:
        holder = _claim(worker, tmp_path, "in time")
        stale = late.pop(holder.job)
        _require_refused(stack, stale)
        holder.report()
        holder.checkpoint(20, 30)
        _require_refused(stack, stale)
        holder.report()
        assert holder.complete().state == "succeeded"
        _require_refused(stack, stale)


def _submit(stack: Stack, adapter: str) -> str:
    base = BaseChoice(id="tiny", fingerprint=digest("tiny: base"))
    request = TrainingRequest(adapter=adapter, base=base, data=stack.data, spec=SPEC)
    body = JobSubmission(request=request, needs=Needs(memory_bytes=MEMORY_BYTES))
    return stack.client.call("POST", "/jobs", JobView, body=body).id


def _claim(worker: Client, tmp_path: Path, name: str) -> Held:
    return Held.claim(worker, tmp_path, name=name, memory_bytes=MEMORY_BYTES, free_memory_bytes=MEMORY_BYTES)


def _require_refused(stack: Stack, stale: Held) -> None:
    before = _everything(stack, stale.job)
    for name, call in CALLS.items():
        with pytest.raises(StaleAttempt):
            call(stale)
        assert _everything(stack, stale.job) == before, name


def _everything(stack: Stack, job: str) -> list[Any]:
    """Each row that tells of a job, with the versions of its adapter in any state."""
    with stack.database.read() as session:
        row = session.get_one(Job, job)
        adapter = select(Adapter.pk).where(Adapter.name == row.subject)
        queries = (
            select(Job.__table__).where(Job.id == job),
            select(Attempt.__table__).where(Attempt.job_id == job).order_by(Attempt.attempt),
            select(Checkpoint.__table__).where(Checkpoint.job_id == job).order_by(Checkpoint.step),
            select(JobEvent.__table__).where(JobEvent.job_id == job).order_by(JobEvent.seq),
            select(Version.__table__).where(Version.adapter_pk.in_(adapter)).order_by(Version.pk),
            select(Origin.__table__).where(Origin.job == job),
        )
        return [session.execute(query).all() for query in queries]


@pytest.mark.parametrize("number", range(scale(20)))
def test_a_worker_that_is_stopped_beyond_its_lease_drops_the_job_when_it_wakes(number: int, stack: Stack) -> None:
    adapter = f"stopped-{number}"
    job = stack.train(adapter, steps=2 * STEPS)
    stopped: list[int] = []

    def stop() -> None:
        worker = stack.worker_named(stack.row(job).worker)
        assert worker is not None
        stopped.extend(tree(worker))
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)

    def wait_for_another() -> None:
        wait_until(lambda: stack.row(job).attempt > 1 and stack.row(job).worker is not None, lambda: stack.explain(job))

    def wake() -> None:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)

    def stop_at_gate(_request: Head) -> None:
        if not stopped:
            stop()
            wait_for_another()
            wake()

    if number % 2:
        # It wakes with its result on the way.
        with stack.gates.before(f"/jobs/{job}/complete", stop_at_gate):
            stack.wait_for_end([job])
    else:
        stack.wait_for_step(job, 3)
        stop()
        wait_for_another()
        wake()
    late = stack.worker_named(stack.attempts(job)[0].worker)
    assert late is not None
    said = f"job={job} attempt=1 another attempt holds the job; dropped"
    wait_until(lambda: any(said in line for line in late.lines), lambda: stack.explain(job))
    child = late.child_of(job, 1)
    assert child is not None
    assert not is_alive(child)
    stack.wait_for_end([job])
    Ledger().check(stack, adapter, [job])
    assert [attempt.state for attempt in stack.attempts(job)] == ["lost", "succeeded"]
