"""The life of a job on both databases: retries by reason, release, routing, checkpoints, the reconciler."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select, text, update
from sqlalchemy.orm import Session
from support.adapters import ASKED, SPEC, base_registration, digest, save_adapter, use_of
from support.people import SEEDS, new_adapter
from support.registries import SHORT_LEASE_S, World
from support.statements import sent

from registry.app.services import Services, build
from registry.artifacts.models import ManifestRow
from registry.db.database import append, db_epoch_s, utc_now
from registry.jobs.models import Checkpoint, Job, Sweeper, Worker
from registry.jobs.reconcile import in_background
from registry.jobs.sweepers import note_sweep, sweepers
from registry.principal import LOCAL, Role
from registry.queue import NoQueue
from sdk.client import Client
from sdk.errors import Conflict, InvalidInput, JobFailed, NotAllowed, NotFound, StaleAttempt, VerificationFailed
from sdk.pushing.pack import pack_adapter
from sdk.schemas.catalog import Publication, Published
from sdk.schemas.evaluation import MergeSpec
from sdk.schemas.events import NewEvent, Progress
from sdk.schemas.jobs import (
    AttemptView,
    BaseChoice,
    CheckpointPublication,
    CheckpointRef,
    CheckpointView,
    JobSubmission,
    JobView,
    MergeRequest,
    Needs,
    QueueCapacity,
    TrainingRequest,
    WorkerView,
)
from sdk.schemas.manifest import Manifest, ManifestFile
from sdk.schemas.removal import GcRequest
from sdk.schemas.training import QuantizationRecipe, TrainingReport, TrainingSpec
from sdk.schemas.work import (
    Assignment,
    CheckpointRecord,
    ClaimRequest,
    Completion,
    Failure,
    Farewell,
    Heartbeat,
    HeartbeatReply,
    Release,
    WorkerInfo,
)
from sdk.transfer import hash_file


@dataclass
class Crew:
    """A namespace of its own, whoever submits there, and a worker that is given only its jobs."""

    world: World
    space: str
    writer: Client
    worker: Client
    data: str
    tmp_path: Path
    others: list[Services] = field(default_factory=list)

    def body(self, *, base: str = "tiny", **changed: Any) -> JobSubmission:
        spec = changed.pop("spec", SPEC)
        start = changed.pop("from_checkpoint", None)
        request = TrainingRequest(
            adapter=changed.pop("adapter", f"{self.space}/a"),
            base=BaseChoice(id=base),
            data=self.data,
            spec=spec,
            from_checkpoint=start,
        )
        return JobSubmission(request=request, **changed)

    def submit(self, **changed: Any) -> JobView:
        return self.writer.call("POST", "/jobs", JobView, body=self.body(**changed))

    def claim(self, client: Client | None = None, *, key: str | None = None, **about: Any) -> Assignment | None:
        return (client or self.worker).call(
            "POST",
            "/jobs/claim",
            Assignment | None,  # type: ignore[arg-type]
            body=ClaimRequest(worker=info(**about)),
            headers=None if key is None else {"Idempotency-Key": key},
        )

    def hold(self, *, key: str | None = None, **about: Any) -> Assignment:
        held = self.claim(key=key, **about)
        assert held is not None
        return held

    def fail(self, held: Assignment, reason: str, message: str = "so it is") -> JobView:
        failure = Failure(attempt=held.attempt, reason=reason, message=message)
        return self.worker.call("POST", f"/jobs/{held.job}/fail", JobView, body=failure)

    def release(self, held: Assignment) -> JobView:
        return self.worker.call("POST", f"/jobs/{held.job}/release", JobView, body=Release(attempt=held.attempt))

    def view(self, job_id: str) -> JobView:
        return self.writer.job_view(job_id)

    def attempts(self, job_id: str) -> list[AttemptView]:
        return self.writer.call("GET", f"/jobs/{job_id}/attempts", list[AttemptView])

    def checkpoints(self, job_id: str) -> list[CheckpointView]:
        return self.writer.call("GET", f"/jobs/{job_id}/checkpoints", list[CheckpointView])

    def checkpoint(self, held: Assignment, step: int, total: int = 30, **changed: Any) -> CheckpointView:
        """Store a checkpoint as a worker does."""
        folder = self.tmp_path / f"checkpoint-{next(SEEDS)}"
        save_adapter(folder, next(SEEDS))
        staging = self.tmp_path / f"staging-{next(SEEDS)}"
        staging.mkdir()
        packed = pack_adapter(
            folder, base_id="tiny", base_revision="0" * 40, base_fingerprint=digest("tiny: base"), staging=staging
        )
        state = folder / "optimizer.pt"
        state.write_bytes(f"{held.job} {step} {next(SEEDS)}".encode())
        sha256, size = hash_file(state)
        files = [*packed.manifest.files, ManifestFile(path="optimizer.pt", size_bytes=size, sha256=sha256)]
        manifest = Manifest(kind="checkpoint", base_fingerprint=digest("tiny: base"), files=files)
        record = CheckpointRecord(
            attempt=held.attempt,
            step=step,
            total=total,
            upload=self.worker.upload({**packed.sources, sha256: state}, "storing"),
            manifest=manifest,
            report=TrainingReport(
                lora=packed.lora,
                quantization=None,
                rows=1,
                supervised_tokens=1,
                training={"lr": SPEC.lr, "threads": 2},
                metrics={"loss": 1.0 / step},
                libraries={"torch": "2"},
            ),
        ).model_copy(update=changed)
        return self.worker.call("POST", f"/jobs/{held.job}/checkpoints", CheckpointView, body=record)

    def complete(self, held: Assignment) -> JobView:
        folder = new_adapter(self.tmp_path)
        staging = self.tmp_path / f"staging-{next(SEEDS)}"
        staging.mkdir()
        packed = pack_adapter(
            folder, base_id="tiny", base_revision="0" * 40, base_fingerprint=digest("tiny: base"), staging=staging
        )
        version = Publication(
            adapter=f"{self.space}/a",
            upload=self.worker.upload(packed.sources, "sending"),
            manifest=packed.manifest,
            lora=packed.lora,
            dataset=use_of(self.data),
            metrics={"loss": 1.0},
        )
        completion = Completion(attempt=held.attempt, version=version)
        return self.worker.call("POST", f"/jobs/{held.job}/complete", JobView, body=completion)

    def services(self, **changed: Any) -> Services:
        """Another server process of this registry, with other settings."""
        settings = replace(self.world.services.settings, **changed)
        self.others.append(build(settings, storage=self.world.services.artifacts.storage, queue=NoQueue()))
        return self.others[-1]


def info(name: str = "w1", **changed: Any) -> WorkerInfo:
    given = {"device": "cpu", "memory_bytes": 2**34, "free_memory_bytes": 2**33, **changed}
    return WorkerInfo(name=name, **given)


@pytest.fixture
def crew(people: World, acting: Callable[..., Client], space: str, rows: Path, tmp_path: Path) -> Iterator[Crew]:
    writer = acting(**{space: Role.WRITER})
    data = writer.add_data(rows, namespace=space).digest
    found = Crew(people, space, writer, acting(**{space: Role.WORKER}), data, tmp_path)
    yield found
    for services in found.others:
        services.db.close()
    with people.services.db.write() as session:
        # No later test of this module finds this one's workers or jobs.
        session.execute(update(Worker).values(seen_at=utc_now() - timedelta(days=30)))
        unfinished = (Job.namespace == space, Job.state.in_(["queued", "running"]))
        session.execute(update(Job).where(*unfinished).values(state="failed", lease_until_s=None))


class TestRetries:
    @pytest.mark.parametrize(("reason", "tries"), [("oom", 2), ("crashed", 2), ("data", 1), ("of_tomorrow", 1)])
    def test_a_reason_is_tried_as_often_as_it_may_help(self, crew: Crew, reason: str, tries: int) -> None:
        job = crew.submit()
        for attempt in range(1, tries + 1):
            held = crew.hold()
            assert (held.job, held.attempt) == (job.id, attempt)
            seen = crew.fail(held, reason, "the rows are odd")
            assert seen.state == ("queued" if attempt < tries else "failed")
        assert (seen.reason, seen.failures) == (reason, tries)
        assert crew.claim() is None
        found = crew.attempts(job.id)
        assert [(row.attempt, row.state, row.reason) for row in found] == [
            (attempt, "failed", reason) for attempt in range(1, tries + 1)
        ]
        with pytest.raises(JobFailed, match="the rows are odd"):
            crew.writer.job(job.id).wait(5)

    def test_what_is_away_is_waited_for(self, crew: Crew) -> None:
        job = crew.submit()
        crew.fail(crew.hold(), "unavailable", "the hub is away")
        assert crew.claim() is None
        waits = crew.view(job.id).waits
        assert waits is not None
        assert waits.startswith("it failed and is tried again in")
        with crew.world.services.db.write() as session:
            session.execute(update(Job).where(Job.id == job.id).values(not_before_s=1.0))
        assert crew.hold().attempt == 2

    def test_reasons_are_counted_apart(self, crew: Crew) -> None:
        crew.submit()
        for reason in ("oom", "crashed", "oom"):
            seen = crew.fail(crew.hold(), reason)
        assert (seen.state, seen.reason, seen.failures) == ("failed", "oom", 3)

    def test_a_cancelled_job_is_not_tried_again(self, crew: Crew) -> None:
        job = crew.submit()
        held = crew.hold()
        crew.writer.cancel_job(job.id)
        assert crew.fail(held, "oom").state == "cancelled"

    def test_a_job_is_tried_again_by_hand_once_it_has_ended(self, crew: Crew) -> None:
        job = crew.submit(priority=3, needs=Needs(memory_bytes=5), timeout_s=60.0)
        with pytest.raises(Conflict, match="is queued"):
            crew.writer.call("POST", f"/jobs/{job.id}/retry", JobView)
        held = crew.hold()
        crew.checkpoint(held, 10)
        crew.fail(held, "diverged")
        again = crew.writer.call("POST", f"/jobs/{job.id}/retry", JobView)
        assert (again.retry_of, again.priority, again.needs.memory_bytes) == (job.id, 3, 5)
        given = crew.hold()
        assert (given.job, given.attempt, given.timeout_s) == (again.id, 1, 60.0)
        assert given.checkpoint is not None
        assert (given.checkpoint.job, given.checkpoint.step) == (job.id, 10)
        crew.complete(given)
        with pytest.raises(Conflict, match="is succeeded"):
            crew.writer.call("POST", f"/jobs/{again.id}/retry", JobView)


class TestRelease:
    def test_a_job_that_is_given_back_stands_where_it_stood(self, crew: Crew) -> None:
        first, second = crew.submit(), crew.submit()
        held = crew.hold()
        assert held.job == first.id
        assert crew.release(held).state == "queued"
        assert (crew.view(first.id).failures, crew.view(first.id).ahead) == (0, 0)
        assert crew.view(second.id).ahead == 1
        again = crew.hold(name="w2")
        assert (again.job, again.attempt) == (first.id, 2)
        assert [row.state for row in crew.attempts(first.id)] == ["released", "running"]
        with pytest.raises(StaleAttempt):
            crew.release(held)

    def test_it_may_be_given_back_any_number_of_times(self, crew: Crew) -> None:
        crew.submit()
        for attempt in range(1, 8):
            held = crew.hold()
            assert held.attempt == attempt
            assert crew.release(held).state == "queued"

    def test_a_cancelled_job_ends_when_it_is_given_back(self, crew: Crew) -> None:
        job = crew.submit()
        held = crew.hold()
        crew.writer.cancel_job(job.id)
        assert crew.release(held).state == "cancelled"
        assert crew.claim() is None


class TestRouting:
    def test_a_job_goes_only_where_it_fits(self, crew: Crew) -> None:
        large = crew.submit(needs=Needs(memory_bytes=2**36), priority=9)
        card = crew.submit(needs=Needs(device="cuda"), priority=5)
        small = crew.submit()
        assert crew.hold(name="small").job == small.id
        assert crew.claim(name="small") is None
        assert crew.claim(name="other", queues=["cpu"]) is None
        waits = {job.id: crew.view(job.id).waits or "" for job in (large, card)}
        assert waits[large.id] == "it needs 64.0 GiB of memory, and the largest worker that it may go to has 16.0 GiB"
        assert waits[card.id] == "it needs a CUDA card, and no worker of the queue gpu has one"
        assert crew.hold(name="card", device="cuda").job == card.id
        assert crew.hold(name="big", memory_bytes=2**37, free_memory_bytes=2**37).job == large.id

    def test_a_machine_that_does_not_know_its_memory_is_given_jobs(self, crew: Crew) -> None:
        job = crew.submit(needs=Needs(memory_bytes=2**36))
        assert crew.hold(memory_bytes=0, free_memory_bytes=0).job == job.id

    def test_the_memory_of_a_base_is_estimated(self, crew: Crew) -> None:
        size = 40 * 2**30
        crew.world.admin.register_base(base_registration(f"large-{crew.space}", size_bytes=size))
        over_four_bits = crew.submit(base=f"large-{crew.space}", spec=TrainingSpec())
        over_sixteen = crew.submit(base=f"large-{crew.space}", spec=TrainingSpec(method="lora"))
        needs = [crew.view(job.id).needs.memory_bytes or 0 for job in (over_four_bits, over_sixteen)]
        assert size / 4 < needs[0] < size / 2
        assert needs[1] > size
        assert crew.claim(memory_bytes=2**33, free_memory_bytes=2**33) is None
        assert crew.hold(memory_bytes=2**34, free_memory_bytes=2**34).job == over_four_bits.id

    def test_a_merge_goes_only_to_a_worker_that_holds_whole_models(self, crew: Crew) -> None:
        size = 10 * 2**30
        name = f"large-{crew.space}"
        config = {"model_type": "llama", "hidden_size": 6, "dtype": "bfloat16", "vocab_size": 32_000}
        crew.world.admin.register_base(base_registration(name, size_bytes=size, config=config))
        ref = crew.writer.push(new_adapter(crew.tmp_path), f"{crew.space}/m", base=name).ref

        def submit(**spec: Any) -> JobView:
            body = JobSubmission(request=MergeRequest(ref=ref, spec=MergeSpec(**spec)))
            return crew.writer.call("POST", "/jobs", JobView, body=body)

        kept, wide = submit(), submit(dtype="float32")
        # The base and what is made of it, as large as it or in numbers twice as wide.
        needs = [job.needs.memory_bytes or 0 for job in (kept, wide)]
        assert 2 * size < needs[0] < 2.4 * size
        assert 3 * size < needs[1] < 3.5 * size
        assert crew.claim(name="small") is None
        assert crew.claim(name="used", memory_bytes=2**36, free_memory_bytes=2 * size) is None
        crew.worker.call("POST", "/workers/leave", None, body=Farewell(worker="used"))
        assert (
            crew.view(kept.id).waits
            == "it needs 22.9 GiB of memory, and the largest worker that it may go to has 16.0 GiB"
        )
        assert crew.hold(name="enough", memory_bytes=2**36, free_memory_bytes=needs[0]).job == kept.id

    def test_a_merge_over_four_bits_needs_more(self, crew: Crew) -> None:
        needs = []
        for method in ("lora", "qlora"):
            folder = new_adapter(crew.tmp_path)
            quantization = QuantizationRecipe(compute_dtype="bfloat16") if method == "qlora" else None
            version = crew.writer.push(
                folder, f"{crew.space}/{method}", base="tiny", method=method, quantization=quantization
            )
            body = JobSubmission(request=MergeRequest(ref=version.ref))
            needs.append(crew.writer.call("POST", "/jobs", JobView, body=body).needs.memory_bytes or 0)
        assert needs[0] < needs[1]

    def test_workers_are_known_by_what_they_said(self, crew: Crew) -> None:
        name = f"node of {crew.space}"
        crew.worker.call("POST", "/workers/hello", None, body=info(name, device="cuda", queues=["gpu"], version="9.9"))
        job = crew.submit()

        def seen() -> WorkerView:
            found = crew.writer.call("GET", "/workers", list[WorkerView])
            return next(worker for worker in found if worker.name == name)

        assert (seen().state, seen().device, seen().queues, seen().version) == ("idle", "cuda", ["gpu"], "9.9")
        gpu = crew.writer.call("GET", "/capacity", list[QueueCapacity])[0]
        assert (gpu.queue, gpu.queued, gpu.running, gpu.workers, gpu.idle, gpu.unfit) == ("gpu", 1, 0, 1, 1, 0)
        crew.hold(name=name, device="cuda", queues=["gpu"])
        assert (seen().state, seen().job) == ("busy", job.id)
        crew.worker.call("POST", "/workers/leave", None, body=Farewell(worker=name))
        assert seen().state == "draining"
        with crew.world.services.db.write() as session:
            session.execute(update(Worker).where(Worker.name == name).values(seen_at=utc_now() - timedelta(minutes=5)))
        assert seen().state == "silent"
        crew.worker.call("POST", "/workers/hello", None, body=info(name))
        assert seen().state == "busy"

    def test_another_team_sees_neither_job_nor_place(self, crew: Crew, acting: Callable[..., Client]) -> None:
        stranger = acting(elsewhere=Role.WRITER)
        job = crew.submit()
        held = crew.hold(name=f"node of {crew.space}")
        found = stranger.call("GET", "/workers", list[WorkerView])
        assert [worker for worker in found if worker.name == f"node of {crew.space}"] == []
        for method, path in (
            ("GET", f"/jobs/{job.id}/attempts"),
            ("GET", f"/jobs/{job.id}/checkpoints"),
            ("POST", f"/jobs/{job.id}/retry"),
        ):
            with pytest.raises(NotFound):
                stranger.call(method, path, None)
        crew.checkpoint(held, 1)
        with pytest.raises(NotFound):
            stranger.call(
                "POST",
                f"/jobs/{job.id}/checkpoints/1/publish",
                Published,
                body=CheckpointPublication(adapter="elsewhere/b"),
            )
        with pytest.raises(NotAllowed):
            crew.writer.call("POST", f"/jobs/{job.id}/release", JobView, body=Release(attempt=1))

    def test_waiting_is_explained(self, crew: Crew) -> None:
        first, second = crew.submit(), crew.submit()
        assert (crew.view(first.id).waits or "").startswith("no worker listens to the queue gpu")
        crew.worker.call("POST", "/workers/hello", None, body=info("only"))
        assert crew.view(first.id).waits == "a worker is about to take it"
        assert crew.view(second.id).waits == "1 job goes first"
        crew.hold(name="only")
        assert crew.view(second.id).waits == "every worker that it may go to is busy"
        assert (crew.view(first.id).waits, crew.view(first.id).ahead) == (None, None)

    def test_workers_that_ask_at_once_are_given_different_jobs(self, crew: Crew) -> None:
        jobs = {crew.submit().id for _ in range(12)}
        with ThreadPoolExecutor(8) as pool:
            given = list(pool.map(lambda n: crew.claim(name=f"w{n}"), range(16)))
        assert sorted(held.job for held in given if held is not None) == sorted(jobs)


def _request_of(session: Session, job: JobView) -> dict[str, Any]:
    return session.get_one(Job, job.id).request


class TestClaimsSentAgain:
    def test_the_same_claim_is_given_the_same_attempt_with_what_is_left_of_its_lease(self, crew: Crew) -> None:
        first, second = crew.submit(), crew.submit()
        held = crew.hold(key="claim-1")
        with crew.world.services.db.write() as session:
            session.execute(update(Job).where(Job.id == held.job).values(lease_until_s=db_epoch_s() + 5))
        # What a worker says of itself may have changed meanwhile.
        again = crew.hold(key="claim-1", free_memory_bytes=2**38)
        assert 0 < again.lease_s <= 5 < held.lease_s
        assert again.model_copy(update={"lease_s": held.lease_s}) == held
        assert crew.hold(key="claim-2").job == ({first.id, second.id} - {held.job}).pop()
        assert crew.claim(key="claim-3") is None
        assert [row.state for row in crew.attempts(held.job)] == ["running"]
        crew.complete(held)

    def test_where_there_was_no_work_it_is_looked_for_anew(self, crew: Crew) -> None:
        assert crew.claim(key="claim-1") is None
        job = crew.submit()
        assert crew.hold(key="claim-1").job == job.id

    def test_what_is_not_held_any_more_is_not_given_again(self, crew: Crew) -> None:
        # Nor is anything else: a sending that comes so late is one that nobody waits for.
        crew.submit()
        held = crew.hold(key="claim-1")
        crew.release(held)
        assert crew.claim(key="claim-1") is None
        again = crew.hold(key="claim-2")
        assert (again.job, again.attempt) == (held.job, 2)
        with crew.world.services.db.write() as session:
            session.execute(update(Job).where(Job.id == held.job).values(lease_until_s=db_epoch_s() - 1))
        assert crew.claim(key="claim-2") is None
        assert crew.hold(key="claim-3").attempt == 3

    def test_what_it_needs_may_be_gone_by_then(self, crew: Crew) -> None:
        job = crew.submit()
        crew.hold(key="claim-1")
        with crew.world.services.db.write() as session:
            session.execute(
                update(Job).where(Job.id == job.id).values(request={**_request_of(session, job), "data": "0" * 64})
            )
        assert crew.claim(key="claim-1") is None
        assert (crew.view(job.id).state, crew.view(job.id).reason) == ("failed", "gone")

    def test_its_key_is_for_one_thing(self, crew: Crew) -> None:
        crew.submit()
        crew.hold(key="claim-1")
        with pytest.raises(Conflict, match="used for another request"):
            crew.worker.call("POST", "/workers/hello", None, body=info(), headers={"Idempotency-Key": "claim-1"})
        crew.worker.call("POST", "/workers/hello", None, body=info(), headers={"Idempotency-Key": "hello-1"})
        with pytest.raises(Conflict, match="used for another request"):
            crew.claim(key="hello-1")

    def test_sent_many_times_at_once_it_is_given_one_job(self, crew: Crew) -> None:
        jobs = [crew.submit() for _ in range(4)]

        def ask(_: int) -> tuple[str, int]:
            while True:
                try:
                    held = crew.hold(key="claim-1")
                except Conflict:
                    # Another sending of it is not done yet.
                    time.sleep(0.01)
                else:
                    return held.job, held.attempt

        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(ask, range(8))) == {(jobs[0].id, 1)}
        assert [crew.view(job.id).state for job in jobs] == ["running", "queued", "queued", "queued"]


class TestCheckpoints:
    def test_the_next_attempt_goes_on_from_the_last(self, crew: Crew) -> None:
        job = crew.submit()
        held = crew.hold()
        assert held.checkpoint is None
        for step in (10, 20):
            crew.checkpoint(held, step)
        assert [(c.step, c.total, c.metrics["loss"]) for c in crew.checkpoints(job.id)] == [
            (20, 30, 0.05),
            (10, 30, 0.1),
        ]
        last, earlier = crew.checkpoints(job.id)
        assert last.expires_at is None
        assert earlier.expires_at is not None
        assert crew.view(job.id).checkpoint_step == 20
        crew.release(held)
        again = crew.hold()
        assert again.checkpoint is not None
        assert (again.checkpoint.job, again.checkpoint.step, again.checkpoint.manifest.digest) == (
            job.id,
            20,
            last.digest,
        )
        # A worker that has the manifest may fetch its files.
        crew.worker.fetch_manifest(again.checkpoint.manifest, crew.tmp_path / "resumed")
        assert (crew.tmp_path / "resumed" / "optimizer.pt").read_bytes().startswith(job.id.encode())

    def test_a_stale_attempt_leaves_none(self, crew: Crew) -> None:
        job = crew.submit()
        held = crew.hold()
        crew.release(held)
        crew.hold()
        with pytest.raises(StaleAttempt):
            crew.checkpoint(held, 10)
        assert crew.checkpoints(job.id) == []

    def test_one_step_again_is_one_checkpoint(self, crew: Crew) -> None:
        job = crew.submit()
        held = crew.hold()
        crew.checkpoint(held, 10)
        crew.release(held)
        second = crew.checkpoint(crew.hold(), 10)
        assert [(c.attempt, c.digest) for c in crew.checkpoints(job.id)] == [(2, second.digest)]

    def test_whoever_begins_anew_goes_on_from_there(self, crew: Crew) -> None:
        job = crew.submit()
        held = crew.hold()
        crew.checkpoint(held, 20)
        # It could not be read, say.
        crew.checkpoint(held, 10)
        assert [(c.step, c.expires_at is None) for c in crew.checkpoints(job.id)] == [(10, True), (20, False)]
        assert crew.view(job.id).checkpoint_step == 10
        crew.release(held)
        again = crew.hold()
        assert again.checkpoint is not None
        assert again.checkpoint.step == 10

    def test_what_is_no_checkpoint_is_refused(self, crew: Crew) -> None:
        crew.submit()
        held = crew.hold()
        files = [ManifestFile(path="adapter_config.json", size_bytes=1, sha256=digest("x"))]
        for manifest in (
            Manifest(kind="adapter", base_fingerprint=digest("tiny: base"), files=files),
            Manifest(kind="checkpoint", base_fingerprint=digest("tiny: base"), files=files),
        ):
            with pytest.raises(InvalidInput, match="checkpoint's manifest"):
                crew.checkpoint(held, 10, manifest=manifest)
        with pytest.raises((InvalidInput, NotFound, VerificationFailed)):
            crew.checkpoint(held, 10, upload="0" * 32)

    def test_a_step_is_published_with_its_job_in_the_lineage(self, crew: Crew) -> None:
        job = crew.submit()
        held = crew.hold()
        for step in (10, 20):
            crew.checkpoint(held, step)
        path = f"/jobs/{job.id}/checkpoints/10/publish"
        body = CheckpointPublication(
            adapter=f"{crew.space}/early", tags={"step": "10"}, description="before it overfits"
        )
        version = crew.writer.call("POST", path, Published, body=body).version
        assert (version.ref, version.metrics, version.tags) == (f"{crew.space}/early@v1", {"loss": 0.1}, {"step": "10"})
        assert version.training == {**ASKED, "threads": 2, "checkpoint_step": 10}
        assert version.reported == [
            "dataset.rows",
            "dataset.supervised_tokens",
            "libraries",
            "metrics",
            "training.checkpoint_step",
            "training.threads",
        ]
        assert version.job is not None
        assert (version.job.id, version.job.attempt) == (job.id, 1)
        assert [file.path for file in version.files] == ["adapter_config.json", "adapter_model.safetensors"]
        assert version.dataset is not None
        assert version.dataset.digest == crew.data
        pulled = crew.writer.pull(version.ref, crew.tmp_path / "pulled")
        assert (pulled / "adapter_model.safetensors").is_file()
        assert (
            crew.writer.call("POST", path, Published, body=CheckpointPublication()).version.ref == f"{crew.space}/a@v1"
        )
        with pytest.raises(NotFound, match="no checkpoint of step 11"):
            crew.writer.call("POST", f"/jobs/{job.id}/checkpoints/11/publish", Published, body=CheckpointPublication())
        with pytest.raises(NotAllowed):
            crew.worker.call("POST", path, Published, body=CheckpointPublication())

    def test_a_training_goes_on_from_another_job_of_the_same(self, crew: Crew) -> None:
        job = crew.submit()
        held = crew.hold()
        for step in (10, 20):
            crew.checkpoint(held, step)
        early = crew.submit(from_checkpoint=CheckpointRef(job=job.id))
        crew.checkpoint(held, 30)
        # It is gone on from, so a later one does not let it expire.
        assert [(c.step, c.expires_at is None) for c in crew.checkpoints(job.id)] == [
            (30, True),
            (20, True),
            (10, False),
        ]
        crew.writer.cancel_job(early.id)
        crew.writer.cancel_job(job.id)
        crew.fail(held, "cancelled")
        # Kept on cancel.
        assert [c.step for c in crew.checkpoints(job.id)] == [30, 20, 10]
        last = crew.submit(from_checkpoint=CheckpointRef(job=job.id), adapter=f"{crew.space}/b")
        chosen = crew.submit(from_checkpoint=CheckpointRef(job=job.id, step=10))
        assert last.request["from_checkpoint"] == {"job": job.id, "step": 30}
        assert [crew.hold().checkpoint.step for _ in range(2)] == [30, 10]  # type: ignore[union-attr]
        # The one that is gone on from is kept.
        assert [c.expires_at for c in crew.checkpoints(job.id)] == [None, None, None]
        with pytest.raises(InvalidInput, match="another lr, seed"):
            crew.submit(from_checkpoint=CheckpointRef(job=job.id), spec=SPEC.model_copy(update={"lr": 0.01, "seed": 4}))
        with pytest.raises(NotFound, match="no checkpoint of step 15"):
            crew.submit(from_checkpoint=CheckpointRef(job=job.id, step=15))
        with pytest.raises(NotFound, match="no checkpoint"):
            crew.submit(from_checkpoint=CheckpointRef(job=chosen.id))
        with pytest.raises(NotFound, match="no job"):
            crew.submit(from_checkpoint=CheckpointRef(job="none"))

    def test_one_that_a_job_goes_on_from_is_kept_until_that_has_ended(self, crew: Crew) -> None:
        job = crew.submit()
        held = crew.hold()
        crew.checkpoint(held, 10)
        later = crew.submit(from_checkpoint=CheckpointRef(job=job.id))
        for step in (20, 30):
            crew.checkpoint(held, step)
        last = crew.submit(from_checkpoint=CheckpointRef(job=job.id))
        services = crew.world.services

        def ends() -> dict[int, bool]:
            services.reconciler.sweep()
            return {found.step: found.expires_at is not None for found in crew.checkpoints(job.id)}

        assert ends() == {30: False, 20: True, 10: False}
        crew.writer.cancel_job(later.id)
        crew.writer.cancel_job(last.id)
        # The last one needs nobody who goes on from it.
        assert ends() == {30: False, 20: True, 10: True}
        found = next(found for found in crew.checkpoints(job.id) if found.step == 10)
        hours = services.settings.checkpoint_hours
        assert found.expires_at is not None
        assert found.expires_at - utc_now() > timedelta(hours=hours - 1)
        # Whoever tries it again keeps it again.
        again = crew.writer.call("POST", f"/jobs/{later.id}/retry", JobView)
        assert again.request["from_checkpoint"] == {"job": job.id, "step": 10}
        assert ends() == {30: False, 20: True, 10: False}
        with services.db.read() as session:
            assert session.get_one(Checkpoint, (job.id, 10)).kept

    def test_nobody_tries_again_from_one_that_is_gone_or_not_to_be_seen(
        self, crew: Crew, acting: Callable[..., Client], rows: Path
    ) -> None:
        """A reader of the namespace has started a training of their own from it, and reads there no more."""
        job = crew.submit()
        held = crew.hold()
        crew.checkpoint(held, 10)
        mine = f"mine-{crew.space}"
        friend = acting(**{mine: Role.WRITER, crew.space: Role.READER})
        friend.add_data(rows, namespace=mine)
        body = crew.body(adapter=f"{mine}/a", from_checkpoint=CheckpointRef(job=job.id))
        started = friend.call("POST", "/jobs", JobView, body=body).id
        friend.cancel_job(started)
        friend.cancel_job(friend.call("POST", f"/jobs/{started}/retry", JobView).id)
        with pytest.raises(NotFound, match="no job"):
            acting(**{mine: Role.WRITER}).call("POST", f"/jobs/{started}/retry", JobView)
        with crew.world.services.db.write() as session:
            session.execute(delete(Checkpoint).where(Checkpoint.job_id == job.id))
        with pytest.raises(NotFound, match="no checkpoint"):
            friend.call("POST", f"/jobs/{started}/retry", JobView)

    def test_all_but_the_last_go_in_time(self, crew: Crew) -> None:
        job = crew.submit()
        held = crew.hold()
        for step in (10, 20, 30):
            crew.checkpoint(held, step)
        digests = {c.step: c.digest for c in crew.checkpoints(job.id)}
        services = crew.world.services
        with services.db.write() as session:
            past = (Checkpoint.job_id == job.id, Checkpoint.step == 10)
            session.execute(update(Checkpoint).where(*past).values(expires_at=utc_now() - timedelta(hours=1)))
        assert services.reconciler.sweep()["expired_checkpoints"] == 1
        assert [c.step for c in crew.checkpoints(job.id)] == [30, 20]
        services.removal.collect(request=GcRequest(dry_run=False, grace_hours=0), who=LOCAL)
        with services.db.read() as session:
            gone = session.scalars(select(ManifestRow.digest).where(ManifestRow.collected_at.is_not(None))).all()
        assert digests[10] in gone
        assert not {digests[20], digests[30]} & set(gone)
        crew.release(held)
        again = crew.hold()
        assert again.checkpoint is not None
        crew.worker.fetch_manifest(again.checkpoint.manifest, crew.tmp_path / "kept")


class TestReconciler:
    def test_it_queues_again_what_nobody_holds(self, crew: Crew) -> None:
        job = crew.submit()
        services = crew.services(lease_s=SHORT_LEASE_S)
        held = services.claims.claim(claim=ClaimRequest(worker=info()), who=LOCAL)
        assert held is not None
        with in_background(crew.services(lease_s=60.0).reconciler, every_s=0.05):
            deadline = time.monotonic() + 30
            while crew.view(job.id).state != "queued" and time.monotonic() < deadline:
                time.sleep(0.02)
        assert [row.state for row in crew.attempts(job.id)] == ["lost"]
        with pytest.raises(StaleAttempt):
            crew.worker.call("POST", f"/jobs/{job.id}/heartbeat", HeartbeatReply, body=Heartbeat(attempt=1))

    def test_one_leads_and_another_takes_over(self, crew: Crew) -> None:
        if crew.world.services.db.engine.dialect.name != "postgresql":
            pytest.skip("on SQLite each process sweeps")
        first, second = crew.services(), crew.services()
        swept: list[str] = []
        for name, services in (("first", first), ("second", second)):
            services.reconciler.sweep = lambda name=name: swept.append(name)  # type: ignore[method-assign,misc]

        def until(name: str) -> None:
            deadline = time.monotonic() + 30
            while name not in swept and time.monotonic() < deadline:
                time.sleep(0.02)
            assert name in swept

        stop = threading.Event()
        leader = threading.Thread(target=first.reconciler.run, kwargs={"every_s": 0.02, "stop": stop})
        leader.start()
        until("first")
        with in_background(second.reconciler, every_s=0.02):
            time.sleep(0.3)
            assert set(swept) == {"first"}
            stop.set()
            leader.join()
            until("second")

    def test_progress_is_kept_across_a_claim_of_another(self, crew: Crew) -> None:
        job = crew.submit()
        held = crew.hold()
        progress = Progress(phase="train", step=1, total=2, loss=1.0)
        beat = Heartbeat(attempt=1, events=[NewEvent(kind="progress", progress=progress)])
        crew.worker.call("POST", f"/jobs/{job.id}/heartbeat", HeartbeatReply, body=beat)
        crew.release(held)
        crew.hold()
        events = crew.writer.job(job.id).events()
        assert [(event.attempt, event.state or event.progress.loss) for event in events] == [  # type: ignore[union-attr]
            (0, "queued"),
            (1, "running"),
            (1, 1.0),
            (1, "queued"),
            (2, "running"),
        ]


def test_a_claim_looks_through_a_long_queue_once(crew: Crew) -> None:
    db = crew.world.services.db
    if db.engine.dialect.name != "postgresql":
        pytest.skip("SQLite looks through it once anyway")
    known = crew.submit()
    with db.read() as session:
        row = session.get_one(Job, known.id)
        columns = {column.name: getattr(row, column.name) for column in Job.__table__.columns}

    def add(count: int, state: str) -> None:
        made = [{**columns, "id": f"{state}-{n}", "idempotency_key": None, "state": state} for n in range(count)]
        with db.write() as session:
            append(session, Job, *made)

    add(5_000, "succeeded")
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        # From here on the database expects that hardly any job waits.
        connection.execute(text("ANALYZE jobs"))
    add(300, "queued")
    with sent(db) as seen:
        crew.hold()
    (claim,) = [one for one in seen if "SKIP LOCKED" in one.sql]
    with db.engine.connect() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {claim.sql}", claim.parameters).scalar_one()
        connection.rollback()

    def rows_of(node: dict[str, Any]) -> float:
        own = node["Actual Rows"] * node["Actual Loops"] if node.get("Relation Name") == "jobs" else 0
        return own + sum(rows_of(below) for below in node.get("Plans", []))

    assert rows_of(plan[0]["Plan"]) < 10 * 300, plan
    with db.write() as session:
        session.execute(delete(Job).where(Job.id.like("succeeded-%") | Job.id.like("queued-%")))


def test_a_step_that_fails_stops_no_other_and_no_sweep(crew: Crew) -> None:
    services = crew.services()
    taken: list[str] = []

    def fails() -> int:
        taken.append("failing")
        raise ValueError("one row of it is odd")

    def works() -> int:
        taken.append("working")
        return 1

    services.reconciler._steps = {"failing": fails, "working": works}
    with in_background(services.reconciler, every_s=0.01):
        deadline = time.monotonic() + 30
        while taken.count("working") < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert taken[:4] == ["failing", "working"] * 2


def test_monitoring_is_told_who_leads_and_since_when(crew: Crew) -> None:
    services = crew.services()
    name = f"{socket.gethostname()}:{os.getpid()}"

    def told() -> dict[str, float]:
        shown = crew.world.services.metrics.exposition().decode()
        return {
            line.partition("{")[0]: float(line.rpartition(" ")[2])
            for line in shown.splitlines()
            if f'name="{name}"' in line
        }

    with services.db.write() as session:
        # Those of earlier tests.
        session.execute(delete(Sweeper))
    assert told() == {}
    with in_background(services.reconciler, every_s=0.01):
        deadline = time.monotonic() + 30
        swept = "adapterctl_reconciler_swept_at_seconds"
        first: dict[str, float] = {}
        while not (first and told()[swept] > first[swept]) and time.monotonic() < deadline:
            first = first or told()
            time.sleep(0.01)
        last = told()
    since = "adapterctl_reconciler_leader_since_seconds"
    assert first[since] == last[since] <= first[swept] < last[swept]
    assert abs(time.time() - last[since]) < 60
    with services.db.write() as session:
        # Another process has come to lead since.
        note_sweep(session, "elsewhere:1", led=False, alone=services.db.engine.dialect.name == "postgresql")
        leaders = [row[0] for row in sweepers(session)]
    expected = ["elsewhere:1"] if services.db.engine.dialect.name == "postgresql" else sorted(["elsewhere:1", name])
    assert leaders == expected
    with services.db.write() as session:
        session.execute(delete(Sweeper))
