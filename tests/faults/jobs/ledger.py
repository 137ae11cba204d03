"""What must hold of jobs once they have ended, whatever happened to them: none is lost, none was run twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from faults.jobs.parts import LEASE_S, MAX_ATTEMPTS, SWEEP_S
from faults.jobs.stack import LOOK_STEPS, Stack
from sqlalchemy import select
from support.workplace import is_alive, wait_until

from registry.catalog.models import Adapter, Origin, Version
from registry.jobs.models import Attempt, Job
from sdk.schemas.jobs import JobState
from sdk.schemas.series import OF_LOOKS

#: After how many attempts with an end of this kind a job may be given up.
CAPS = {"worker_lost": MAX_ATTEMPTS, "oom": 2, "crashed": 2, "unavailable": 5}


@dataclass
class Ledger:
    """What was done to jobs and found of them, over all rounds."""

    kills: int = 0
    succeeded: int = 0
    failed: int = 0
    attempts: int = 0
    #: The digest that each seed's adapter has, whoever trained it and in however many pieces.
    digests: dict[int, str] = field(default_factory=dict)
    #: The step of the look whose weights each seed's adapter has; None: it takes the last ones.
    best: dict[int, int | None] = field(default_factory=dict)

    def check(self, stack: Stack, adapter: str, jobs: Sequence[str], *, may_fail: Collection[str] = ()) -> None:
        """Look through the jobs that trained this adapter; all of them have ended, some of them may have been struck
        too often.
        """
        with stack.database.read() as session:
            rows = {job: session.get_one(Job, job) for job in jobs}
            tries = {
                job: session.scalars(select(Attempt).where(Attempt.job_id == job).order_by(Attempt.attempt)).all()
                for job in jobs
            }
            query = select(Version, Origin).join(Adapter, Version.adapter_pk == Adapter.pk).join(Origin)
            made = session.execute(query.where(Adapter.name == adapter, Version.state == "ready")).all()
            last = session.scalar(select(Adapter.last_number).where(Adapter.name == adapter)) or 0
        for job, row in rows.items():
            said = stack.explain(job)
            assert [attempt.attempt for attempt in tries[job]] == list(range(1, row.attempt + 1)), said
            ends = [attempt.state for attempt in tries[job]]
            mine = [(version, origin) for version, origin in made if origin.job == job]
            if row.state == JobState.SUCCEEDED:
                assert ends.count("succeeded") == 1, said
                assert ends[-1] == "succeeded", said
                ((version, origin),) = mine
                assert origin.attempt == row.attempt, said
                assert row.result is not None
                assert row.result["ref"] == f"{adapter}@v{version.number}", said
                spec = row.request["spec"]
                _require_each_step_once(stack, job, spec["max_steps"], is_watched="eval_every" in spec)
                seed = row.request["spec"]["seed"]
                assert self.digests.setdefault(seed, version.digest) == version.digest, said
                # The best look is that of a training that nobody disturbed.
                best = (origin.training or {}).get("best_step")
                assert self.best.setdefault(seed, best) == best, said
            else:
                assert row.state == JobState.FAILED, said
                assert job in may_fail, said
                assert mine == [], said
                assert row.reason in CAPS, said
                assert [attempt.reason for attempt in tries[job]].count(row.reason) == CAPS[row.reason], said
            assert "running" not in ends, said
            self.succeeded += row.state == JobState.SUCCEEDED
            self.failed += row.state == JobState.FAILED
            self.attempts += row.attempt
            for attempt in tries[job]:
                _require_gone(stack, job, attempt)
        numbers = sorted(version.number or 0 for version, _ in made)
        assert numbers == list(range(1, last + 1)), f"{adapter} has the numbers {numbers}, and counts to {last}"
        wait_until(lambda: _folders(stack, jobs) == [], lambda: f"{_folders(stack, jobs)} are left")


def _require_each_step_once(stack: Stack, job: str, steps: int, *, is_watched: bool) -> None:
    """In the series of a job, whoever took its steps how often; its version keeps the same."""
    found = stack.client.jobs.series(job)
    assert {"loss", "lr", "tokens"} <= found.series.keys(), stack.said(job)
    assert ("eval_loss" in found.series) == is_watched, stack.said(job)
    looked = [0, *range(LOOK_STEPS, steps, LOOK_STEPS), steps]
    for name, buckets in found.series.items():
        each = looked if name.startswith(OF_LOOKS) else [*range(1, steps + 1)]
        reached = buckets.step if "could not be sent in time" in stack.said(job) else each
        assert buckets.first == buckets.step == reached, f"{name} of job {job}"
        assert set(buckets.count) == {1}, f"{name} of job {job}"
    kept = stack.client.versions.series(str((stack.job(job).result or {})["ref"]))
    assert kept.job != job or kept == found


def _require_gone(stack: Stack, job: str, attempt: Attempt) -> None:
    worker = stack.worker_named(attempt.worker)
    child = None if worker is None else worker.child_of(job, attempt.attempt)
    if child is not None:
        # The one that succeeded ended before it was published; a lost one with its worker.
        assert not is_alive(child), f"process {child} of attempt {attempt.attempt} of job {job} lives"


def _folders(stack: Stack, jobs: Sequence[str]) -> list[str]:
    """What attempts have left in the workers' caches."""
    folders = [folder.name for worker in stack.workers_at_work for folder in worker.cache.glob("jobs/*")]
    return [name for name in folders if name.split("-")[0] in jobs]


_LOOK_S = 0.2
#: Without an answer for so long, in seconds, the registry is away.
_AWAY_S = 1.0


@dataclass
class Hindrances:
    """What kept leases from being counted in time: a slow machine, and a registry of which no process was there."""

    #: By how much a short sleep and a question to the database took too long.
    lag_s: float = 0.0
    #: From when to when the registry did not answer, in seconds since 1970.
    away: list[tuple[float, float]] = field(default_factory=list)

    @property
    def leeway_s(self) -> float:
        """What a job may take longer to be given out again than the lease and one sweep."""
        return 3.0 + 4 * self.lag_s

    def away_s(self, since: float, until: float) -> float:
        """For how long the registry was away between two moments."""
        return sum(max(0.0, min(until, end) - max(since, begin)) for begin, end in self.away)


@contextmanager
def measured_hindrances(stack: Stack) -> Iterator[Hindrances]:
    """Measure for the length of the block."""
    found, over = Hindrances(), threading.Event()

    def look_at_clocks() -> None:
        while not over.is_set():
            began = time.monotonic()
            over.wait(_LOOK_S)
            with stack.database.read() as session:
                session.execute(select(1))
            found.lag_s = max(found.lag_s, time.monotonic() - began - _LOOK_S)

    def look_for_registry() -> None:
        answered = time.time()
        while not over.is_set():
            if stack.registry.answers():
                if time.time() - answered > _AWAY_S:
                    found.away.append((answered, time.time()))
                answered = time.time()
            over.wait(_LOOK_S)

    threads = [threading.Thread(target=look, daemon=True) for look in (look_at_clocks, look_for_registry)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        over.set()
        for thread in threads:
            thread.join()


def lost_at(stack: Stack, job: str, attempt: int) -> float | None:
    """When an attempt was found to be lost, and its job queued again, in seconds since 1970; None where it was not lost."""
    with stack.database.read() as session:
        row = session.get_one(Attempt, (job, attempt))
        return None if row.state != "lost" or row.finished_at is None else row.finished_at.timestamp()


#: Within so many seconds a job whose worker has vanished is queued again, on a machine that keeps up.
AGAIN_WITHIN_S = LEASE_S + SWEEP_S
