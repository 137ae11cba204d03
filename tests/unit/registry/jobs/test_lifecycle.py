"""The tables of legal moves are complete, and what the services do is in them."""

from __future__ import annotations

import random
from contextlib import nullcontext
from itertools import pairwise

import pytest
from sqlalchemy import select, update
from support.adapters import base_registration, digest

from registry.app.services import Services
from registry.artifacts.models import Blob
from registry.catalog.models import Version
from registry.catalog.versions import lifecycle as versions
from registry.catalog.versions.lifecycle import VersionState
from registry.datasets.models import Dataset, DatasetAccess
from registry.errors import Conflict, StaleAttempt
from registry.jobs import events, lifecycle
from registry.jobs.models import Job
from registry.principal import LOCAL
from sdk.schemas.job_requests import BaseChoice, TrainingRequest
from sdk.schemas.jobs import JobState, JobSubmission
from sdk.schemas.work import ClaimRequest, Failure, Heartbeat, WorkerInfo


class TestTables:
    def test_every_state_of_a_version_has_its_moves(self) -> None:
        assert set(versions.MOVES) == set(VersionState)
        reachable = {VersionState.PENDING}.union(*versions.MOVES.values())
        assert reachable == set(VersionState)
        for state, targets in versions.MOVES.items():
            assert state not in targets
            assert VersionState.PENDING not in targets

    def test_live_states_are_those_that_can_become_ready_or_are(self) -> None:
        alive = {state for state, moves in versions.MOVES.items() if moves}
        assert set(versions.LIVE) == alive
        where = next(
            str(index.dialect_options["sqlite"]["where"])
            for index in Version.__table__.indexes  # type: ignore[attr-defined]
            if index.name == "uq_versions_live_digest"
        )
        assert {state.value for state in versions.LIVE} == {part.strip("' ") for part in where[10:-1].split(",")}

    def test_sources_are_the_moves_read_backwards(self) -> None:
        for target in VersionState:
            assert set(versions.sources_of(target)) == {s for s in VersionState if target in versions.MOVES[s]}

    def test_every_state_of_a_job_has_its_moves(self) -> None:
        assert set(lifecycle.MOVES) == set(JobState)
        assert set().union(*lifecycle.MOVES.values()) == set(JobState)
        for state, targets in lifecycle.MOVES.items():
            assert bool(targets) != state.is_final
        assert set(lifecycle.FINAL) == {state for state in JobState if state.is_final}

    @pytest.mark.parametrize("state", JobState)
    def test_a_job_makes_no_move_that_is_not_in_the_table(self, state: JobState) -> None:
        for target in JobState:
            job = Job(id="j", state=state)
            with nullcontext() if target in lifecycle.MOVES[state] else pytest.raises(RuntimeError, match="can't move"):
                lifecycle.move(job, target)
                assert job.state == target


@pytest.mark.parametrize("seed", range(2))
def test_whatever_happens_to_jobs_is_in_the_table(services: Services, seed: int) -> None:
    """Clients, workers and lost leases in random order: every move is legal, and one attempt holds a job at a time."""
    chance = random.Random(seed)
    services.bases.register(base=base_registration(), who=LOCAL)
    data = digest("rows")
    with services.db.write() as session:
        session.add(Blob(sha256=data, size_bytes=1))
        session.flush()
        session.add(Dataset(digest=data, size_bytes=1, format="jsonl", created_by="x"))
        session.flush()
        session.add(DatasetAccess(digest=data, namespace="-"))
    base = BaseChoice(id="tiny", fingerprint=digest("tiny: base"))
    body = JobSubmission(request=TrainingRequest(adapter="a", base=base, data=data))
    worker = WorkerInfo(name="w", device="cpu", memory_bytes=2**34, free_memory_bytes=2**33)
    held: list[tuple[str, int]] = []
    ids: list[str] = []
    for _ in range(150):
        step = chance.choice(["submit", "claim", "claim", "beat", "fail", "cancel", "expire", "requeue"])
        if step == "submit":
            ids.append(services.jobs.submit(submission=body, who=LOCAL).id)
        elif step == "claim":
            given = services.claims.claim(claim=ClaimRequest(worker=worker), who=LOCAL)
            if given is not None:
                held.append((given.job, given.attempt))
        elif step == "cancel" and ids:
            job_id = chance.choice(ids)
            before = services.jobs.get(job_id, who=LOCAL).state
            with pytest.raises(Conflict) if before in ("succeeded", "failed") else nullcontext():
                services.jobs.cancel(job_id, who=LOCAL)
        elif step == "expire":
            with services.db.write() as session:
                session.execute(update(Job).where(Job.state == "running").values(lease_until_s=0.0))
        elif step == "requeue":
            services.claims.requeue_expired()
        elif held:
            job_id, attempt = chance.choice(held)
            view = services.jobs.get(job_id, who=LOCAL)
            current = view.state == "running" and view.attempt == attempt
            try:
                if step == "beat":
                    services.claims.heartbeat(job_id=job_id, beat=Heartbeat(attempt=attempt), who=LOCAL)
                else:
                    failure = Failure(attempt=attempt, reason="oom", message="")
                    services.claims.fail(job_id=job_id, failure=failure, who=LOCAL)
                assert current
            except StaleAttempt:
                assert not current
                assert services.jobs.get(job_id, who=LOCAL) == view
    assert len(set(held)) == len(held)
    seen = set()
    for job_id in ids:
        found, state = events.read(services.db, job_id=job_id, after=0, limit=1000, who=LOCAL)
        states = [JobState(event.state) for event in found if event.state is not None]
        assert states[0] == JobState.QUEUED
        assert states[-1] == state
        for before, after in pairwise(states):
            assert after in lifecycle.MOVES[before]
        attempts = [event.attempt for event in found]
        assert attempts == sorted(attempts)
        seen.update(states)
    assert seen >= {JobState.QUEUED, JobState.RUNNING, JobState.FAILED, JobState.CANCELLED}
    with services.db.read() as session:
        leases = session.execute(select(Job.state, Job.lease_until_s)).all()
    assert all((lease is not None) == (state == "running") for state, lease in leases)
