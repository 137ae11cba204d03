"""A training that is killed and goes on elsewhere makes what it would have made undisturbed: the same curve, the same bytes."""

from __future__ import annotations

import pytest
from faults.jobs.ledger import Ledger
from faults.jobs.stack import UNDISTURBED_SEED, Stack
from sqlalchemy import func, select
from support.workplace import wait_until

from registry.jobs.models import Checkpoint

pytestmark = pytest.mark.slow


def test_a_killed_training_goes_on_to_the_same_end(stack: Stack) -> None:
    job = stack.train("disturbed", seed=UNDISTURBED_SEED)
    wait_until(lambda: last_step(stack, job, attempt=1) > 0, lambda: stack.explain(job))
    worker = stack.worker_named(stack.row(job).worker)
    assert worker is not None
    worker.kill()
    worker.wait_until_gone()
    stack.start(worker)
    stack.wait_for_end([job])
    Ledger().check(stack, "disturbed", [job])
    reached = last_step(stack, job, attempt=1)
    assert f"resuming from the checkpoint of step {reached} of job {job}" in stack.said(job)
    assert [attempt.state for attempt in stack.attempts(job)] == ["lost", "succeeded"]

    ours, theirs = curve(stack, job), curve(stack, stack.undisturbed)
    assert len(ours) > reached > 0
    # Each step of the lost attempt is there once, and so are those that it took again.
    assert ours == theirs
    mine, other = stack.job(job).result, stack.job(stack.undisturbed).result
    assert mine is not None
    assert other is not None
    assert mine["digest"] == other["digest"]
    assert mine["metrics"]["loss"] == other["metrics"]["loss"]


def curve(stack: Stack, job: str) -> list[tuple[int, float]]:
    """The loss of each step."""
    loss = stack.client.jobs.series(job, keys=["loss"]).series["loss"]
    assert set(loss.count) == {1}
    return list(zip(loss.step, loss.last, strict=True))


def last_step(stack: Stack, job: str, *, attempt: int) -> int:
    """The step of the newest checkpoint of an attempt: the last that arrived, whenever its worker was killed."""
    with stack.database.read() as session:
        return session.scalars(select(func.max(Checkpoint.step)).filter_by(job_id=job, attempt=attempt)).one() or 0
