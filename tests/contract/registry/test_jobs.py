"""Jobs: claims, leases, attempts and results."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from contract.registry.helpers import publication, states_of, submission, submit
from sqlalchemy import select, update
from support.adapters import base_registration, digest, save_adapter, use_of
from support.calls import claim, complete, fail, worker_info
from support.people import SEEDS
from support.registries import SHORT_LEASE_S, World
from support.scored_rows import CONDITIONS

from registry.catalog.models import Version
from registry.catalog.versions.lifecycle import VersionState
from registry.db.types import db_epoch_s
from registry.errors import RegistryError
from registry.jobs.models import Job
from registry.principal import Role
from sdk.client import Client
from sdk.errors import (
    Conflict,
    InvalidInput,
    JobCancelled,
    JobFailed,
    NotFound,
    StaleAttempt,
)
from sdk.pulling.transfer import hash_file
from sdk.schemas.artifacts import DatasetView
from sdk.schemas.catalog import Publication
from sdk.schemas.evaluation import EvaluationReport, MergeReport
from sdk.schemas.events import NewEvent, Progress
from sdk.schemas.manifest import Manifest, ManifestFile
from sdk.schemas.work import (
    Assignment,
    ClaimRequest,
    Completion,
    EvaluationResult,
    Heartbeat,
    HeartbeatReply,
    MergeResult,
)


def hold_briefly(world: World) -> Assignment:
    """Claim a job in another process, whose leases end almost at once."""
    return world.impatient.claims.claim(claim=ClaimRequest(worker=worker_info()), who=world.principal(Role.WORKER))


def let_leases_end() -> None:
    """Wait until a short lease that was taken now is over."""
    time.sleep(SHORT_LEASE_S + 0.05)


def beat(client: Client, held: Assignment, *events: NewEvent) -> HeartbeatReply:
    body = Heartbeat(attempt=held.attempt, events=list(events))
    return client.call("POST", f"/jobs/{held.job}/heartbeat", HeartbeatReply, body=body)


def trained(client: Client, folder: Path, name: str, rows: DatasetView) -> Publication:
    """Upload an adapter that a job trained on `rows`."""
    return publication(client, folder, name, dataset=use_of(rows.digest))


class TestJobs:
    def test_one_key_is_one_job(self, quiet: World, writer: Client, rows: DatasetView, name: str) -> None:
        body = submission(name, rows)
        first = submit(writer, body, key=name)
        assert submit(writer, body, key=name).id == first.id
        with pytest.raises(Conflict, match="another request"):
            submit(writer, submission(name, rows, rank=3), key=name)
        assert submit(writer, body, key=f"{name}-b").id != first.id
        for key in ("", "x" * 201):
            with pytest.raises(InvalidInput):
                submit(writer, body, key=key)
        assert submit(writer, body).id != submit(writer, body).id

    def test_what_the_client_submits_has_the_key_that_it_was_given(
        self, quiet: World, writer: Client, name: str, tmp_path: Path
    ) -> None:
        data = tmp_path / "rows.jsonl"
        data.write_text('{"prompt": "a", "completion": "b"}\n')
        first, again = (
            writer.submit_training(name, base="tiny", data=data, idempotency_key=f"key of {name}") for _ in range(2)
        )
        assert again.id == first.id
        assert writer.submit_training(name, base="tiny", data=data).id != first.id

    def test_one_key_used_at_once_is_one_job(self, quiet: World, writer: Client, rows: DatasetView, name: str) -> None:
        with ThreadPoolExecutor(6) as pool:
            jobs = list(pool.map(lambda _: submit(writer, submission(name, rows), key=name), range(6)))
        assert len({job.id for job in jobs}) == 1

    def test_what_does_not_exist_is_refused_at_submit(
        self, quiet: World, writer: Client, rows: DatasetView, name: str
    ) -> None:
        with pytest.raises(NotFound, match="dataset"):
            submit(writer, submission(name, rows.model_copy(update={"digest": digest("none")})))
        with pytest.raises(NotFound, match="base"):
            submit(writer, submission(name, rows, base="missing"))
        with pytest.raises(NotFound):
            writer.submit_merge(f"{name}@v1")
        assert writer.jobs(state="queued") == []

    def test_claim_heartbeat_complete_makes_a_version(
        self, quiet: World, writer: Client, rows: DatasetView, name: str, adapter: Path
    ) -> None:
        worker = quiet.worker
        job = writer.job(submit(writer, submission(name, rows)).id)
        held = claim(worker)
        assert (held.job, held.attempt, held.datasets) == (job.id, 1, {rows.digest: "jsonl"})
        assert held.base.location == f"hf://tests/tiny@{'0' * 40}"
        assert claim(worker) is None
        progress = Progress(phase="train", step=3, total=10, loss=2.5)
        reply = beat(worker, held, NewEvent(kind="progress", progress=progress), NewEvent(kind="log", message="hello"))
        assert (reply.cancel, reply.lease_s) == (False, 60.0)
        assert (job.state, job.view.worker, job.view.progress) == ("running", "w1", progress)
        body = trained(worker, adapter, name, rows)
        done = complete(worker, held, version=body)
        assert done.state == "succeeded"
        assert done.result == {
            "ref": f"{name}@v1",
            "digest": body.manifest.digest,
            "existing": False,
            "metrics": {"loss": 1.25},
        }
        version = job.result()
        assert (version.ref, version.info.metrics) == (f"{name}@v1", {"loss": 1.25})
        assert (version.info.job.id, version.info.job.attempt) == (job.id, 1)
        # The answer may be lost and the worker ask again: nothing more happens.
        assert complete(worker, held, version=body).result == done.result
        assert [found.number for found in writer.versions(name)] == [1]
        assert [event.state for event in job.events() if event.kind == "state"] == ["queued", "running", "succeeded"]
        with pytest.raises(StaleAttempt):
            beat(worker, held)

    def test_a_job_that_makes_bytes_that_exist_succeeds_with_them(
        self, quiet: World, writer: Client, rows: DatasetView, name: str, adapter: Path
    ) -> None:
        writer.push(adapter, name, base="tiny")
        submit(writer, submission(name, rows))
        held = claim(quiet.worker)
        done = complete(quiet.worker, held, version=trained(quiet.worker, adapter, name, rows))
        assert (done.result["ref"], done.result["existing"]) == (f"{name}@v1", True)

    def test_a_refused_result_leaves_the_job_to_its_worker(
        self, quiet: World, writer: Client, rows: DatasetView, name: str, adapter: Path
    ) -> None:
        job = submit(writer, submission(name, rows))
        held = claim(quiet.worker)
        body = trained(quiet.worker, adapter, name, rows)
        for wrong in ({}, {"version": body.model_copy(update={"adapter": f"{name}-b"})}, {"evaluations": []}):
            with pytest.raises(InvalidInput):
                complete(quiet.worker, held, **wrong)
        assert writer.jobs.view(job.id).state == "running"
        assert complete(quiet.worker, held, version=body).state == "succeeded"

    def test_an_attempt_that_lost_its_lease_changes_nothing(
        self, quiet: World, writer: Client, rows: DatasetView, name: str, tmp_path: Path
    ) -> None:
        worker = quiet.worker
        job = writer.job(submit(writer, submission(name, rows)).id)
        stale = hold_briefly(quiet)
        late = trained(worker, save_adapter(tmp_path / "late", next(SEEDS)), name, rows)
        let_leases_end()
        held = claim(worker, name="awake")
        assert (held.job, held.attempt) == (job.id, 2)
        before = [event.seq for event in job.events()]
        with pytest.raises(StaleAttempt):
            beat(worker, stale, NewEvent(kind="log", message="I am back"))
        with pytest.raises(StaleAttempt):
            fail(worker, stale, "internal")
        with pytest.raises(StaleAttempt):
            complete(worker, stale, version=late)
        assert [event.seq for event in job.events()] == before
        with pytest.raises(NotFound):
            writer.get(name)
        assert writer.jobs.view(job.id).worker == "awake"
        done = complete(worker, held, version=trained(worker, save_adapter(tmp_path / "good", next(SEEDS)), name, rows))
        assert done.state == "succeeded"
        with pytest.raises(StaleAttempt):
            complete(worker, stale, version=late)
        assert [found.number for found in writer.versions(name)] == [1]

    def test_a_lease_that_ends_while_the_result_is_verified_publishes_nothing(
        self, quiet: World, writer: Client, rows: DatasetView, name: str, adapter: Path
    ) -> None:
        services = quiet.impatient
        submit(writer, submission(name, rows))
        stale = hold_briefly(quiet)
        body = trained(quiet.worker, adapter, name, rows)
        publisher = services.publisher
        verify = services.artifacts.verify

        class Slow:
            """Reads the bytes for so long that another worker is given the job meanwhile."""

            def verify(self, **given: Any) -> Any:
                found = verify(**given)
                let_leases_end()
                assert claim(quiet.worker, name="awake") is not None
                return found

            def known(self, *given: Any, **named: Any) -> None:
                """Nothing: every byte is to be read."""

            def __getattr__(self, name: str) -> Any:
                return getattr(services.artifacts, name)

        publisher._artifacts = Slow()  # type: ignore[assignment]
        try:
            with pytest.raises(RegistryError, match="no longer holds"):
                services.claims.complete(
                    job_id=stale.job,
                    completion=Completion(attempt=stale.attempt, version=body),
                    who=quiet.principal(Role.WORKER),
                )
        finally:
            publisher._artifacts = services.artifacts
        with pytest.raises(NotFound):
            writer.get(name)
        assert states_of(quiet, name) == [("failed", None)]
        assert writer.push(adapter, name, base="tiny").number == 1

    def test_a_lost_worker_is_tried_again_until_it_is_given_up(
        self, quiet: World, writer: Client, rows: DatasetView, name: str
    ) -> None:
        job = writer.job(submit(writer, submission(name, rows)).id)
        for attempt in (1, 2, 3):
            assert hold_briefly(quiet).attempt == attempt
            let_leases_end()
        assert claim(quiet.worker) is None
        with pytest.raises(JobFailed, match="vanished in each of 3 attempts") as caught:
            job.wait(5)
        assert caught.value.reason == "worker_lost"

    def test_a_heartbeat_keeps_the_lease(self, quiet: World, writer: Client, rows: DatasetView, name: str) -> None:
        submit(writer, submission(name, rows))
        held = hold_briefly(quiet)
        # Renewed by a process whose leases are long.
        beat(quiet.worker, held)
        let_leases_end()
        assert claim(quiet.worker) is None
        assert fail(quiet.worker, held, "data").state == "failed"

    def test_looking_for_lost_workers_at_once_requeues_once(
        self, quiet: World, writer: Client, rows: DatasetView, name: str
    ) -> None:
        job = writer.job(submit(writer, submission(name, rows)).id)
        hold_briefly(quiet)
        let_leases_end()
        with ThreadPoolExecutor(6) as pool:
            moved = list(pool.map(lambda _: quiet.services.claims.requeue_expired(), range(6)))
        assert sum(moved) == 1
        assert [event.message for event in job.events()].count("its worker fell silent") == 1

    def test_a_heartbeat_under_way_wins_over_the_look_for_lost_workers(
        self, quiet: World, writer: Client, rows: DatasetView, name: str
    ) -> None:
        job = submit(writer, submission(name, rows))
        hold_briefly(quiet)
        let_leases_end()
        with ThreadPoolExecutor(1) as pool:
            with quiet.services.db.write() as session:
                session.execute(update(Job).where(Job.id == job.id).values(lease_until_s=db_epoch_s() + 60))
                looking = pool.submit(quiet.services.claims.requeue_expired)
                # Long enough for the look to have seen the lease as it was, and to wait for the row.
                time.sleep(0.3)
            assert looking.result() == 0
        assert (writer.jobs.view(job.id).state, writer.jobs.view(job.id).attempt) == ("running", 1)

    def test_many_claims_at_once_get_one_job_each(
        self, quiet: World, writer: Client, rows: DatasetView, name: str
    ) -> None:
        jobs = {submit(writer, submission(name, rows)).id for _ in range(5)}
        with ThreadPoolExecutor(8) as pool:
            held = list(pool.map(lambda n: claim(quiet.worker, name=f"w{n}"), range(8)))
        given = [each.job for each in held if each is not None]
        assert sorted(given) == sorted(jobs)

    def test_a_job_whose_version_is_gone_fails_and_stops_nobody(
        self, quiet: World, writer: Client, rows: DatasetView, name: str, adapter: Path
    ) -> None:
        version = writer.push(adapter, name, base="tiny")
        lost = writer.submit_merge(version.ref, priority=9)
        second = submit(writer, submission(name, rows))
        with quiet.services.db.write() as session:
            row = session.scalars(select(Version).where(Version.digest == version.digest)).one()
            row.state = VersionState.DELETED
        held = claim(quiet.worker)
        assert held.job == second.id
        with pytest.raises(JobFailed, match="was deleted") as caught:
            lost.wait(5)
        assert caught.value.reason == "gone"

    def test_a_claim_prefers_priority_then_cached_base_then_hint_then_age(
        self, quiet: World, writer: Client, rows: DatasetView, name: str
    ) -> None:
        quiet.admin.bases.register(base_registration("cached"))
        old = submit(writer, submission(name, rows))
        hinted = submit(writer, submission(name, rows))
        cached = submit(writer, submission(name, rows, base="cached"))
        urgent = submit(writer, submission(name, rows, priority=5))
        order = [
            held.job
            for _ in range(4)
            if (held := claim(quiet.worker, hint=hinted.id, cached_bases=[digest("cached: base")])) is not None
        ]
        assert order == [urgent.id, cached.id, hinted.id, old.id]

    def test_cancelling_a_waiting_job_ends_it_at_once(
        self, quiet: World, writer: Client, rows: DatasetView, name: str
    ) -> None:
        job = writer.job(submit(writer, submission(name, rows)).id)
        assert job.cancel().state == "cancelled"
        assert job.cancel().state == "cancelled"
        assert [event.state for event in job.events()] == ["queued", "cancelled"]
        assert claim(quiet.worker) is None
        with pytest.raises(JobCancelled):
            job.wait(5)

    def test_cancelling_a_running_job_asks_its_worker(
        self, quiet: World, writer: Client, rows: DatasetView, name: str
    ) -> None:
        job = writer.job(submit(writer, submission(name, rows)).id)
        held = claim(quiet.worker)
        assert beat(quiet.worker, held).cancel is False
        assert job.cancel().state == "running"
        assert beat(quiet.worker, held).cancel is True
        assert fail(quiet.worker, held, "cancelled", "stopped").state == "cancelled"
        assert job.cancel().state == "cancelled"

    def test_a_cancelled_job_whose_worker_vanished_is_not_tried_again(
        self, quiet: World, writer: Client, rows: DatasetView, name: str
    ) -> None:
        job = writer.job(submit(writer, submission(name, rows)).id)
        hold_briefly(quiet)
        job.cancel()
        let_leases_end()
        assert claim(quiet.worker) is None
        assert job.state == "cancelled"

    def test_events_are_read_by_a_cursor(self, quiet: World, writer: Client, rows: DatasetView, name: str) -> None:
        job = submit(writer, submission(name, rows))
        held = claim(quiet.worker)
        beat(quiet.worker, held, *(NewEvent(kind="log", message=str(n)) for n in range(5)))
        every = writer.jobs.events(job.id)
        assert [event.message for event in every][2:] == ["0", "1", "2", "3", "4"]
        assert [event.seq for event in every] == sorted({event.seq for event in every})
        assert writer.jobs.events(job.id, after=every[3].seq) == every[4:]
        page = quiet.http.get(f"/api/v1/jobs/{job.id}/events", params={"after": every[0].seq, "limit": 2}).json()
        assert [event["seq"] for event in page] == [event.seq for event in every[1:3]]

    def test_an_evaluation_is_kept_for_what_was_asked(
        self, quiet: World, writer: Client, rows: DatasetView, name: str, adapter: Path, tmp_path: Path
    ) -> None:
        version = writer.push(adapter, name, base="tiny")
        data = tmp_path / "rows.jsonl"
        data.write_text('{"text": "a"}\n')
        job = writer.submit_evaluation([f"{name}@latest", "base:tiny"], data=data)
        held = claim(quiet.worker)
        assert [target.label for target in held.targets] == [version.ref, "base:tiny"]
        report = EvaluationReport(metrics={"loss": 1.5}, precision="float32", conditions=CONDITIONS)

        def result(label: str, found: str | None, base: str = "tiny") -> EvaluationResult:
            return EvaluationResult(label=label, digest=found, base_fingerprint=digest(f"{base}: base"), report=report)

        bare = result("base:tiny", None)
        for wrong in (
            [result(version.ref, version.digest)],
            [result(version.ref, digest("another")), bare],
            [result(version.ref, version.digest, base="cached"), bare],
            [bare, result(version.ref, version.digest)],
        ):
            with pytest.raises(InvalidInput):
                complete(quiet.worker, held, evaluations=wrong)
        assert (
            complete(quiet.worker, held, evaluations=[result(version.ref, version.digest), bare]).state == "succeeded"
        )
        kept = job.result()
        assert [(found.ref, found.metrics) for found in kept] == [
            (version.ref, {"loss": 1.5}),
            ("base:tiny", {"loss": 1.5}),
        ]
        assert [found.ref for found in version.evaluations] == [version.ref]
        assert "base:tiny" in {found.ref for found in writer.evaluations(base=digest("tiny: base"))}

    def test_a_merge_is_kept_by_its_digest(
        self, quiet: World, writer: Client, name: str, adapter: Path, tmp_path: Path
    ) -> None:
        version = writer.push(adapter, name, base="tiny")
        job = writer.submit_merge(name)
        held = claim(quiet.worker)
        assert held.targets[0].manifest == version.info.manifest
        model = tmp_path / "model.safetensors"
        model.write_bytes(name.encode() * 100)
        sha256, size = hash_file(model)
        manifest = Manifest(
            kind="merged",
            base_fingerprint=digest("tiny: base"),
            files=[ManifestFile(path="model.safetensors", size_bytes=size, sha256=sha256)],
        )
        merged = MergeResult(
            manifest=manifest,
            upload=quiet.worker.uploader.upload({sha256: model}, ""),
            report=MergeReport(onto="original", dtype="float32", metrics={"merged_modules": 2.0}),
        )
        assert complete(quiet.worker, held, merge=merged).state == "succeeded"
        saved = job.result().save(tmp_path / "saved")
        assert (saved / "model.safetensors").read_bytes() == model.read_bytes()
