"""Workers, their children and the registry are killed at any moment: no job is lost, and none is run twice."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from faults.jobs.kills import Executioner, Kill, Target, draw
from faults.jobs.ledger import AGAIN_WITHIN_S, Ledger, lost_after_s, measured_lag
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
    with measured_lag(stack) as lag:
        jobs = [stack.train(adapter, seed=number) for number in range(JOBS)]
        with ThreadPoolExecutor(JOBS) as pool:
            struck = pool.map(lambda strike: Executioner(stack, jobs[strike.job], strike).carry_out(), plan)
            done = [kill for kills in struck for kill in kills]
        stack.wait_for_end(jobs)
    print("killed:", *done, sep="\n  ")
    ledger.kills += len(done)
    wait_until(lambda: len(stack.registry.processes()) == 2, lambda: "the server's processes are not back")
    ledger.check(stack, adapter, jobs, may_fail=[jobs[strike.job] for strike in plan if strike.times > 1])
    if not any(kill.strike.target is Target.SERVER for kill in done):
        # While the registry is away nobody counts leases.
        lost = [(kill.job, kill.attempt, _lost_after_s(stack, kill)) for kill in done]
        late = {(job, attempt): seconds for job, attempt, seconds in lost if seconds is not None}
        print(f"queued again after {late}; lag {lag.most_s:.2f} s")
        assert all(seconds < AGAIN_WITHIN_S + lag.leeway_s for seconds in late.values())


def test_the_kills_happened(ledger: Ledger) -> None:
    # Some moments pass by before their turn comes.
    assert ledger.kills >= 0.8 * ROUNDS * JOBS


def _lost_after_s(stack: Stack, kill: Kill) -> float | None:
    if kill.strike.target is not Target.WORKER:
        return None
    return lost_after_s(stack, kill.job, kill.attempt, kill.at)
