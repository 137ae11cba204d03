"""What the registry stands on goes away amid a job and comes back, or an answer of its own is lost: the job ends well."""

from __future__ import annotations

import time

import pytest
from faults.jobs.ledger import Ledger
from faults.jobs.stack import STEPS, Stack
from faults.plans import Head
from support.soak import SOAKING
from support.workplace import wait_until

from sdk.schemas.jobs import JobState

pytestmark = [pytest.mark.soak, pytest.mark.slow]

#: How long the store stays away in a soak, in seconds: longer than several attempts.
AWAY_S = 60


def test_the_database_is_restarted_amid_a_training(stack: Stack) -> None:
    job = stack.train("restarted", steps=3 * STEPS)
    stack.wait_for_step(job)
    stack.postgres.stop()
    stack.start(stack.postgres)
    stack.wait_for_end([job])
    assert stack.row(job).state == JobState.SUCCEEDED, stack.explain(job)
    Ledger().check(stack, "restarted", [job])


def test_the_store_is_away_while_checkpoints_and_the_adapter_are_stored(stack: Stack) -> None:
    away: list[Head] = []

    def take_the_store_away(request: Head) -> None:
        if not away:
            away.append(request)
            stack.seaweed.stop()

    try:
        # However fast it trains: the first checkpoint finds no store, nor does what comes after it.
        with stack.gates.before("/uploads", take_the_store_away):
            job = stack.train("unstored", steps=2 * STEPS)
            wait_until(lambda: bool(away), lambda: stack.explain(job))
        if SOAKING:
            time.sleep(AWAY_S)
        # A checkpoint that can't be sent costs nothing, an adapter that can't be sent an attempt.
        said = "could not be sent yet and will be tried again"
        wait_until(lambda: said in stack.said(job), lambda: stack.explain(job))
        wait_until(lambda: stack.attempts(job)[0].reason == "unavailable", lambda: stack.explain(job))
        assert not stack.row(job).state.is_final, stack.explain(job)
    finally:
        stack.start(stack.seaweed)
    stack.wait_for_end([job])
    assert stack.row(job).state == JobState.SUCCEEDED, stack.explain(job)
    Ledger().check(stack, "unstored", [job])


def test_a_claim_whose_answer_is_lost_costs_no_attempt(stack: Stack) -> None:
    with stack.gates.swallowing("/jobs/claim"):
        job = stack.train("unheard")
        wait_until(lambda: stack.row(job).attempt == 1, lambda: stack.explain(job))
        # As if the server had been killed between giving the job and saying so.
        time.sleep(0.5)
    stack.wait_for_end([job])
    row = stack.row(job)
    assert (row.state, row.attempt) == (JobState.SUCCEEDED, 1), stack.explain(job)
    Ledger().check(stack, "unheard", [job])
