"""A cancel at each stage of a job: it is cancelled once none of its processes lives, or it has succeeded and stays so."""

from __future__ import annotations

import pytest
from faults.jobs.ledger import Ledger
from faults.jobs.stack import Stack
from faults.plans import Head
from support.workplace import ENDLESS_STEPS, is_alive, wait_until

from registry.jobs.models import Job
from sdk.errors import Conflict, NotFound
from sdk.schemas.jobs import JobState, Needs

pytestmark = pytest.mark.slow

#: More than any machine has.
UNFIT = Needs(memory_bytes=2**50)


def test_one_that_waits(stack: Stack) -> None:
    job = stack.train("unfit", needs=UNFIT)
    assert stack.client.jobs.cancel(job).state == "cancelled"
    assert stack.attempts(job) == []


def test_one_that_runs(stack: Stack) -> None:
    job = stack.train("endless", steps=ENDLESS_STEPS)
    stack.wait_for_step(job, 3)
    assert stack.client.jobs.cancel(job).state == "running"
    require_cancelled(stack, job)
    assert stack.checkpoints(job)[0].step >= 3


def test_one_that_uploads(stack: Stack) -> None:
    job = stack.train("uploading")

    def hold(_request: Head) -> None:
        """Between the child's end and the upload, keep the worker until it must have heard."""
        worker = stack.worker_named(stack.row(job).worker)
        if worker is None or not any(
            f"job={job} " in line and "uploading the adapter" in line for line in worker.lines
        ):
            return
        stack.client.jobs.cancel(job)
        beats = len(_beats(stack, job))
        wait_until(lambda: len(_beats(stack, job)) > beats + 2, lambda: stack.explain(job))

    with stack.gates.before("/uploads", hold):
        require_cancelled(stack, job)
    with pytest.raises(NotFound):
        stack.client.get("uploading@v1")


def test_one_whose_result_is_on_its_way(stack: Stack) -> None:
    job = stack.train("on-its-way")
    with stack.gates.before(f"/jobs/{job}/complete", lambda _request: stack.client.jobs.cancel(job)):
        require_cancelled(stack, job)
    with pytest.raises(NotFound):
        stack.client.get("on-its-way@v1")
    # Its worker was told so, and reports no failure.
    wait_until(
        lambda: any(
            line.endswith(" cancelled") and f"job={job} " in line for w in stack.workers_at_work for line in w.lines
        ),
        lambda: stack.explain(job),
    )
    assert [attempt.reason for attempt in stack.attempts(job)] == ["cancelled"]


def test_one_that_has_succeeded_and_whose_worker_does_not_know(stack: Stack) -> None:
    job = stack.train("published")
    with stack.gates.swallowing(f"/jobs/{job}/complete"):
        stack.wait_for_end([job])
        with pytest.raises(Conflict, match="has succeeded"):
            stack.client.jobs.cancel(job)
    wait_until(
        lambda: any(f"job={job} " in line and "succeeded" in line for w in stack.workers_at_work for line in w.lines),
        lambda: stack.explain(job),
    )
    Ledger().check(stack, "published", [job])


def require_cancelled(stack: Stack, job: str) -> None:
    """Wait until a job is cancelled, and see that no process of it is left at that very moment."""
    stack.wait_for_end([job])
    row = stack.row(job)
    worker = stack.worker_named(row.worker)
    assert worker is not None
    child = worker.child_of(job, row.attempt)
    assert child is not None
    assert not is_alive(child)
    assert row.state == JobState.CANCELLED, stack.explain(job)
    with stack.database.read() as session:
        assert session.get_one(Job, job).result is None


def _beats(stack: Stack, job: str) -> list[Head]:
    path = f"/jobs/{job}/heartbeat"
    return [head for worker in stack.workers_at_work for head in worker.proxy.requests if head.path.endswith(path)]
