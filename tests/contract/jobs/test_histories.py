"""Random histories of jobs against a model of them: submitted, claimed, cancelled, handed in, by workers that come late."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from contract.test_previews import shown, text
from sqlalchemy import func, select
from support import registries
from support.adapters import base_registration, use_of
from support.calls import worker_info
from support.people import new_adapter, package, training
from support.registries import World
from support.soak import SOAKING

from registry.catalog.models import Origin
from registry.errors import Conflict, RegistryError, StaleAttempt
from registry.jobs.models import Job
from registry.principal import LOCAL
from sdk.schemas.artifacts import BlobSpec
from sdk.schemas.catalog import Publication
from sdk.schemas.failures import FailureReason
from sdk.schemas.job_requests import BaseChoice, PreviewJobRequest
from sdk.schemas.jobs import JobSubmission, JobView
from sdk.schemas.work import ClaimRequest, Completion, Failure, Release

HISTORIES, STEPS = (200, 4) if not SOAKING else (5_000, 30)
ACTIONS = (
    "submit",
    "claim",
    "claim",
    "claim",
    "cancel",
    "cancel",
    "complete",
    "complete",
    "complete",
    "fail",
    "release",
)


@dataclass
class Known:
    """A job, as the model knows it."""

    kind: str
    state: str = "queued"
    attempt: int = 0
    cancelled: bool = False
    #: Attempts that workers may still believe to hold, with the last one.
    held: list[int] = field(default_factory=list)

    @property
    def is_final(self) -> bool:
        return self.state in ("succeeded", "failed", "cancelled")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with registries.embedded(tmp_path_factory.mktemp("histories") / "home") as found:
        found.admin.bases.register(base_registration())
        yield found


class History:
    """One sequence of changes of jobs, of which others know nothing."""

    def __init__(self, world: World, seed: int, data: str, adapter: Publication) -> None:
        self.services = world.services
        self.random = random.Random(seed)
        # A name of its own: what a version was made from is listed with it.
        self.data, self.adapter = data, adapter.model_copy(update={"adapter": f"a{seed}"})
        self.jobs: dict[str, Known] = {}

    def step(self) -> None:
        """Do one thing, and compare the answer with the model's."""
        action = self.random.choice(ACTIONS) if self.jobs else "submit"
        if action == "submit":
            self.submit()
        elif action == "claim":
            self.claim()
        else:
            job = self.random.choice(list(self.jobs))
            getattr(self, action)(job, self.jobs[job])

    def submit(self) -> None:
        kind = self.random.choice(("training", "preview", "preview"))
        base = BaseChoice(id="tiny")
        asked = training(self.adapter.adapter, self.data)
        if kind == "preview":
            asked = JobSubmission(request=PreviewJobRequest(data=self.data, base=base, rows=1))
        self.jobs[self.services.jobs.submit(submission=asked, who=LOCAL).id] = Known(kind)

    def claim(self) -> None:
        waiting = {job for job, known in self.jobs.items() if known.state == "queued"}
        given = self.services.claims.claim(claim=ClaimRequest(worker=worker_info()), who=LOCAL)
        assert (given is not None) == bool(waiting)
        if given is not None:
            assert given.job in waiting
            known = self.jobs[given.job]
            known.state, known.attempt = "running", known.attempt + 1
            known.held.append(known.attempt)
            assert given.attempt == known.attempt

    def cancel(self, job: str, known: Known) -> None:
        try:
            view = self.services.jobs.cancel(job, who=LOCAL)
        except Conflict:
            assert known.state in ("succeeded", "failed")
            return
        assert known.state not in ("succeeded", "failed")
        known.cancelled = True
        known.state = "running" if known.state == "running" else "cancelled"
        assert view.state == known.state

    def complete(self, job: str, known: Known) -> None:
        attempt = self._attempt(known)
        uploads = self.services.uploads
        result = Completion(attempt=attempt, preview=shown(text(1), file_rows=1))
        if known.kind == "training":
            # Mostly known bytes, and now and then a session that nothing is sent in.
            blobs = [BlobSpec(sha256=file.sha256, size_bytes=file.size_bytes) for file in self.adapter.manifest.files]
            upload = uploads.begin(blobs=blobs, who=LOCAL).id if self.random.random() < 0.3 else None
            result = Completion(attempt=attempt, version=self.adapter.model_copy(update={"upload": upload}))
        answer = self._answer(lambda: self.services.claims.complete(job_id=job, completion=result, who=LOCAL))
        holds = known.attempt == attempt and known.state in ("running", "succeeded", "cancelled")
        assert (answer is not None) == holds
        if answer is not None:
            if known.state == "running":
                known.state = "cancelled" if known.cancelled else "succeeded"
            assert answer.state == known.state

    def fail(self, job: str, known: Known) -> None:
        failure = Failure(attempt=self._attempt(known), reason=FailureReason.DATA, message="so")
        answer = self._answer(lambda: self.services.claims.fail(job_id=job, failure=failure, who=LOCAL))
        self._ended(known, failure.attempt, answer, "cancelled" if known.cancelled else "failed")

    def release(self, job: str, known: Known) -> None:
        given = Release(attempt=self._attempt(known))
        answer = self._answer(lambda: self.services.claims.release(job_id=job, release=given, who=LOCAL))
        self._ended(known, given.attempt, answer, "cancelled" if known.cancelled else "queued")

    def _ended(self, known: Known, attempt: int, answer: JobView | None, state: str) -> None:
        assert (answer is not None) == (known.state == "running" and known.attempt == attempt)
        if answer is not None:
            assert answer.state == state
            known.state = state

    def _attempt(self, known: Known) -> int:
        """The last attempt, or now and then an earlier one, whose worker was away."""
        if len(known.held) > 1 and self.random.random() < 0.3:
            return self.random.choice(known.held)
        return known.attempt or 1

    def _answer(self, call: Callable[[], JobView]) -> JobView | None:
        try:
            return call()
        except StaleAttempt:
            return None

    def end(self) -> None:
        """End what is left, so that the next history finds nothing; compare the states, and count what was made."""
        with self.services.db.read() as session:
            found = session.execute(select(Job.id, Job.state, Job.attempt).where(Job.id.in_(self.jobs))).all()
        assert {row.id: (row.state, row.attempt) for row in found} == {
            job: (known.state, known.attempt) for job, known in self.jobs.items()
        }
        for job, known in self.jobs.items():
            while not known.is_final:
                self.cancel(job, known)
                if known.state == "running":
                    self.complete(job, known)
        with self.services.db.read() as session:
            for job, known in self.jobs.items():
                made = session.scalar(select(func.count()).where(Origin.job == job))
                assert made == (known.kind == "training" and known.state == "succeeded")
                result = session.scalars(select(Job.result).where(Job.id == job)).one()
                assert (result is not None) == (known.state == "succeeded")
                assert not (known.cancelled and known.state == "succeeded")


def test_no_history_of_a_cancelled_job_ends_with_a_result(world: World, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b"}\n')
    data = world.writer.datasets.add(rows).digest
    folder = new_adapter(tmp_path)
    first = world.writer.push(folder, "a", base="tiny")
    adapter = package(folder, tmp_path, "a").model_copy(update={"dataset": use_of(data)})
    assert first.digest == adapter.manifest.digest
    ended: set[tuple[str, str, bool]] = set()
    for seed in range(HISTORIES):
        history = History(world, seed, data, adapter)
        try:
            for _ in range(STEPS):
                history.step()
            history.end()
        except (AssertionError, RegistryError) as error:
            raise AssertionError(f"in the history {seed}: {history.jobs}") from error
        ended |= {(known.kind, known.state, known.cancelled) for known in history.jobs.values()}
    assert {
        (kind, state, state == "cancelled") for kind in ("training", "preview") for state in ("succeeded", "cancelled")
    } <= ended
