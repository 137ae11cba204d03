"""What the registry stands on goes away amid a job, and comes back: the job ends well."""

from __future__ import annotations

import time

import pytest
from faults.jobs.ledger import Ledger
from faults.jobs.stack import STEPS, Stack
from support.soak import SOAKING
from support.workplace import wait_until

from sdk.schemas.jobs import JobState

pytestmark = [pytest.mark.soak, pytest.mark.slow]

#: How long the store stays away, in seconds.
AWAY_S = 60 if SOAKING else 10


def test_the_database_is_restarted_amid_a_training(stack: Stack) -> None:
    job = stack.train("restarted", steps=3 * STEPS)
    stack.wait_for_step(job)
    stack.postgres.stop()
    stack.start(stack.postgres)
    stack.wait_for_end([job])
    assert stack.row(job).state == JobState.SUCCEEDED, stack.explain(job)
    Ledger().check(stack, "restarted", [job])


def test_the_store_is_away_while_checkpoints_and_the_adapter_are_stored(stack: Stack) -> None:
    job = stack.train("unstored", steps=2 * STEPS)
    wait_until(lambda: len(stack.checkpoints(job)) > 0, lambda: stack.explain(job))
    stack.seaweed.stop()
    time.sleep(AWAY_S)
    assert not stack.row(job).state.is_final, stack.explain(job)
    stack.start(stack.seaweed)
    stack.wait_for_end([job])
    assert stack.row(job).state == JobState.SUCCEEDED, stack.explain(job)
    Ledger().check(stack, "unstored", [job])
