"""A broker that forgets, dies, is away or says everything five times: the database knows the jobs, and each runs once."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import redis
from celery import Celery
from faults.jobs.ledger import Ledger
from faults.jobs.parts import VISIBILITY_S, end
from faults.jobs.stack import Stack
from faults.plans import Head
from sqlalchemy import select
from support.workplace import wait_until

from registry.jobs.models import Job
from sdk.errors import Unavailable
from sdk.schemas.jobs import JobState

pytestmark = pytest.mark.slow

#: So long a result is kept on its way: twice over what a message may be unacknowledged for before it is delivered again.
LONG_S = 2 * VISIBILITY_S


@pytest.fixture
def broker(stack: Stack) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(stack.valkey.url) as broker:
        yield broker


def forget_all(stack: Stack) -> None:
    """Kill the broker, and start it without what it had kept."""
    end(stack.valkey)
    shutil.rmtree(stack.valkey.directory / "data")
    stack.start(stack.valkey)


def merge(stack: Stack) -> str:
    """Submit a job of a queue that no worker listens to, so that its message can be looked at."""
    return stack.client.submit_merge("undisturbed@v1").id


def flush(stack: Stack) -> str:
    """Let the broker forget everything."""
    job = merge(stack)
    stack.valkey.flush()
    return job


def restart_empty(stack: Stack) -> str:
    """Let the broker die, and what it had kept be lost."""
    job = merge(stack)
    forget_all(stack)
    return job


def submit_while_away(stack: Stack) -> str:
    """Submit a job while there is no broker."""
    stack.valkey.stop()
    job = merge(stack)
    shutil.rmtree(stack.valkey.directory / "data")
    stack.start(stack.valkey)
    return job


def kill_before_announcing(stack: Stack) -> str:
    """Kill the registry once a job is committed, while it waits for the broker to take the message."""
    known = _jobs(stack)
    broker = stack.valkey.pid
    assert broker is not None
    os.kill(broker, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool, ExitStack() as undone:
        undone.callback(os.kill, broker, signal.SIGCONT)
        submitted = pool.submit(merge, stack)
        wait_until(lambda: _jobs(stack) > known, lambda: "the job is not there")
        stack.registry.kill()
        with pytest.raises(Unavailable):
            submitted.result()
    # What it may have sent to the broker that did not listen.
    stack.valkey.flush()
    stack.start(stack.registry)
    (job,) = _jobs(stack) - known
    return job


def _jobs(stack: Stack) -> set[str]:
    with stack.database.read() as session:
        return set(session.scalars(select(Job.id)))


@pytest.mark.parametrize("lose", [flush, restart_empty, submit_while_away, kill_before_announcing])
def test_a_job_whose_message_is_lost_is_announced_again(
    lose: Callable[[Stack], str], stack: Stack, broker: redis.Redis
) -> None:
    assert stack.undisturbed
    job = lose(stack)
    wait_until(lambda: broker.llen("cpu") > 0, lambda: f"nobody says again that {job} waits")
    assert stack.row(job).state == JobState.QUEUED
    stack.client.jobs.cancel(job)
    broker.delete("cpu")


def test_a_job_that_is_announced_five_times_before_amid_and_after_it_runs_once(
    stack: Stack, broker: redis.Redis
) -> None:
    # The workers have to find their broker again first.
    forget_all(stack)
    celery = Celery(broker=stack.valkey.url, set_as_current=False)

    def say(job: str) -> None:
        with ThreadPoolExecutor(5) as pool:
            said = [
                pool.submit(celery.send_task, "adapterctl.work", [job], queue="gpu", ignore_result=True)
                for _ in range(5)
            ]
            for message in said:
                message.result()

    def say_amid(_request: Head) -> None:
        say(job)
        time.sleep(LONG_S)

    job = stack.train("said-often")
    with stack.gates.before(f"/jobs/{job}/complete", say_amid):
        say(job)
        stack.wait_for_end([job])
    say(job)
    wait_until(lambda: broker.llen("gpu") == 0, lambda: "messages are left")
    celery.close()
    Ledger().check(stack, "said-often", [job])
    (attempt,) = stack.attempts(job)
    assert attempt.finished_at is not None
    assert (attempt.finished_at - attempt.started_at).total_seconds() > VISIBILITY_S, "it was too short to tell"
