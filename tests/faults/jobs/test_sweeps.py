"""Registry, workers, or both are killed at random moments of a sweep: it has the members, the proposals and the winner of one that
nobody disturbed, each once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random

import pytest
from faults.jobs.parts import MAX_ATTEMPTS, kill_process
from faults.jobs.stack import Stack
from sqlalchemy import select
from support import tiny
from support.soak import SOAKING
from support.trainings import save_jsonl

from registry.catalog.models import Adapter, Version
from registry.jobs.models import Attempt, Job
from registry.sweeps.deciding.stopping import halving_goes_on
from registry.sweeps.models import Rung
from registry.sweeps.proposing import setting_of, tried_in
from sdk.api import sweeps
from sdk.schemas.job_requests import CheckpointPolicy, TrainingRequest
from sdk.schemas.jobs import JobState
from sdk.schemas.sweep_axes import Range
from sdk.schemas.sweeps import RUNGS, SweepRequest, SweepState, SweepSubmission, SweepView
from sdk.schemas.training import TrainingSpec

pytestmark = [pytest.mark.soak, pytest.mark.slow, pytest.mark.skipif(not SOAKING, reason="a sweep takes a minute")]

TRIALS, STEPS, ROUNDS, KILLS = 4, 40, 8, 30
#: As many attempts of one member may be lost to blows; the others are for the outages that come with them.
_MOST_STRUCK = MAX_ATTEMPTS - 3


class Sweeps:
    """Sweeps of a stack, all alike."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        rows = [{"prompt": f"name {n} of {word}: ", "completion": word[::-1]} for n, word in enumerate(tiny.WORDS)]
        held_out = save_jsonl(stack.folder / "others.jsonl", rows)
        self._held_out = stack.client.datasets.add(held_out, namespace="-").digest

    def begin(self, adapter: str) -> SweepView:
        training = TrainingRequest(
            adapter=adapter,
            base=self.stack.base,
            data=self.stack.data,
            eval_data=self._held_out,
            spec=TrainingSpec(
                method="lora", batch_size=2, grad_accum=1, max_steps=STEPS, warmup_ratio=0.0, schedule="constant"
            ),
            checkpoint=CheckpointPolicy(every_steps=6, every_minutes=None),
        )
        request = SweepRequest(
            training=training,
            settings={"lr": Range(low=1e-5, high=0.05, log=True)},
            sample="tpe",
            trials=TRIALS,
            stop_early="halving",
            parallel=1,
        )
        return sweeps.submit(self.stack.client.transport, SweepSubmission(request=request))

    def jobs(self, adapter: str) -> dict[str, Job]:
        """Its jobs, by the database: it can be asked while the registry is away."""
        with self.stack.database.read() as session:
            rows = session.scalars(select(Job)).all()
            return {row.id: row for row in rows if row.request.get("adapter") == adapter}

    def require_whole(self, sweep: SweepView, adapter: str) -> None:
        """Look whether each member, attempt, proposal, answer at a rung, and version is there once, and is what undisturbed ones are."""
        view = sweeps.get(self.stack.client.transport, sweep.id)
        told = "\n".join(self.stack.explain(job) for job in self.jobs(adapter))
        assert view.state == SweepState.ENDED, f"{view}\n{told}"
        assert [(one.number, one.trial) for one in view.members] == [(n, n) for n in range(1, TRIALS + 1)], told
        assert {one.state for one in view.members} == {"succeeded"}, told
        assert sorted(one.job for one in view.members) == sorted(self.jobs(adapter)), told
        with self.stack.database.read() as session:
            for one in view.members:
                ends = session.scalars(select(Attempt.state).where(Attempt.job_id == one.job)).all()
                assert ends.count("succeeded") == 1, told
                assert "running" not in ends, told
            versions = select(Version.number).join(Adapter).where(Adapter.name == adapter, Version.state == "ready")
            assert session.scalars(versions).all() == [1]
            past = tried_in(session, sweep.id, view.request)
            rungs = session.scalars(select(Rung).where(Rung.sweep == sweep.id).order_by(Rung.rung, Rung.place)).all()
        proposals = [setting_of(view.request, past[:n], seed=sweep.id, trial=n + 1) for n in range(TRIALS)]
        assert [one.setting for one in view.members] == proposals, told
        for number in range(len(RUNGS["halving"])):
            there = [rung for rung in rungs if rung.rung == number]
            assert [rung.place for rung in there] == [*range(len(there))], told
            losses = [rung.loss for rung in there]
            assert [rung.goes_on for rung in there] == [
                halving_goes_on(losses, place, number) for place in range(len(there))
            ], told
        finished = [one for one in view.members if one.outcome == "finished"]
        assert view.winner == min(finished, key=lambda one: one.metrics["eval_loss"]).number, told

    def has_ended(self, adapter: str, sweep: SweepView) -> bool:
        jobs = self.jobs(adapter)
        if len(jobs) < TRIALS or not all(JobState(one.state).is_final for one in jobs.values()):
            return False
        return self.stack.registry.answers() and sweeps.get(self.stack.client.transport, sweep.id).state == "ended"


@pytest.fixture(scope="module")
def made(stack: Stack) -> Sweeps:
    return Sweeps(stack)


@pytest.fixture(scope="module")
def kills() -> list[str]:
    return []


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_sweep_is_the_undisturbed_one_whoever_is_killed(made: Sweeps, kills: list[str], seed: int) -> None:
    stack, random = made.stack, Random(f"kills in sweeps {seed}")
    adapter = f"killed-sweep-{seed}"
    sweep, struck = made.begin(adapter), dict[str, int]()
    while not made.has_ended(adapter, sweep):
        time.sleep(random.uniform(0.5, 5.0))
        running = [row for row in made.jobs(adapter).values() if not JobState(row.state).is_final]
        if running and struck.get(running[0].id, 0) >= _MOST_STRUCK:
            continue
        # Two dead children of one member are held to be its own fault.
        who = random.choice(["registry", "worker", "both", "leader", *(["child"] if running and not struck else [])])
        if _strike(stack, who, running[0] if running else None):
            kills.append(f"{adapter} {who} {running[0].id if running else 'between members'}")
            if running:
                struck[running[0].id] = struck.get(running[0].id, 0) + 1
    print(*kills, sep="\n  ")
    made.require_whole(sweep, adapter)


def test_the_kills_happened(kills: list[str]) -> None:
    assert len(kills) >= KILLS


def _strike(stack: Stack, who: str, job: Job | None) -> bool:
    """Kill them, and start them again; return whether somebody was there."""
    worker = None if job is None else stack.worker_named(job.worker)
    blows: list[Callable[[], bool]] = []
    if who == "child" and worker is not None and job is not None:
        return kill_process(worker.child_of(job.id, job.attempt))
    if who == "leader":
        return kill_process(stack.leader())
    if who in ("registry", "both"):
        blows.append(stack.registry.kill)
    if who in ("worker", "both") and worker is not None:
        blows.append(worker.kill)
    done = [blow() for blow in blows]
    if worker is not None and who in ("worker", "both"):
        worker.wait_until_gone()
        stack.start(worker)
    if who in ("registry", "both"):
        stack.start(stack.registry)
    return any(done)
