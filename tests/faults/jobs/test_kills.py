"""Workers, their children and the registry are killed at any moment: no job is lost, and none is run twice."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from faults.jobs.kills import Executioner, Kill, Target, draw
from faults.jobs.ledger import AGAIN_WITHIN_S, Hindrances, Ledger, lost_at, measured_hindrances
from faults.jobs.stack import Stack
from support.soak import SOAKING
from support.workplace import wait_until

pytestmark = [pytest.mark.soak, pytest.mark.slow]

#: Each of them is struck. In full 501 jobs; a training's process takes seconds to come up, so the short run has four: what a
#: worker that is killed amid a training, or once its version is there, might do wrong, `test_curve` and `test_cancel` find.
JOBS, ROUNDS = (3, 167) if SOAKING else (2, 2)


@pytest.fixture(scope="module")
def ledger() -> Iterator[Ledger]:
    ledger = Ledger()
    yield ledger
    print(
        f"{ledger.kills} kills: {ledger.succeeded} succeeded and {ledger.failed} failed, in {ledger.attempts} attempts"
    )


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_each_job_ends_once_whoever_is_killed(seed: int, stack: Stack, ledger: Ledger) -> None:
    plan = draw(seed, jobs=JOBS)
    adapter = f"killed-{seed}"
    print(f"seed {seed}:", *plan, sep="\n  ")
    with measured_hindrances(stack) as hindrances:
        jobs = [stack.train(adapter, seed=number) for number in range(JOBS)]
        with ThreadPoolExecutor(JOBS) as pool:
            struck = pool.map(lambda strike: Executioner(stack, jobs[strike.job], strike).carry_out(), plan)
            done = [kill for kills in struck for kill in kills]
        stack.wait_for_end(jobs)
    print("killed:", *done, sep="\n  ")
    ledger.kills += len(done)
    wait_until(lambda: len(stack.registry.processes()) == 2, lambda: "the server's processes are not back")
    ledger.check(stack, adapter, jobs, may_fail=[jobs[strike.job] for strike in plan if strike.times > 1])
    late = {(kill.job, kill.attempt): _lost_after_s(stack, kill, hindrances) for kill in done}
    print(f"queued again after {late}; {hindrances}")
    within_s = AGAIN_WITHIN_S + hindrances.leeway_s
    assert all(seconds is None or seconds < within_s for seconds in late.values())


def test_the_kills_happened(ledger: Ledger) -> None:
    # Some moments pass by before their turn comes.
    assert ledger.kills >= 0.8 * ROUNDS * JOBS


def _lost_after_s(stack: Stack, kill: Kill, hindrances: Hindrances) -> float | None:
    """After how long the job of a killed worker was queued again: while no process of the registry is there nobody counts
    leases, and a reconciler that is killed twice may have left none.
    """
    at = lost_at(stack, kill.job, kill.attempt) if kill.strike.target is Target.WORKER else None
    return None if at is None else at - kill.at - hindrances.away_s(kill.at, at)
