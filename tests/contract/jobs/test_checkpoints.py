"""Checkpoints: stored, pinned, gone on from, and let go."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from contract.jobs.helpers import Crew
from sqlalchemy import delete, select, update
from support.adapters import ASKED, SPEC, digest

from registry.artifacts.models import ManifestRow
from registry.db.types import utc_now
from registry.jobs.models import Checkpoint
from registry.principal import LOCAL, Role
from sdk.client import Client
from sdk.errors import InvalidInput, NotAllowed, NotFound, StaleAttempt, VerificationFailed
from sdk.schemas.catalog import Published
from sdk.schemas.job_requests import CheckpointRef
from sdk.schemas.jobs import CheckpointPublication, JobView
from sdk.schemas.manifest import Manifest, ManifestFile
from sdk.schemas.removal import GcRequest


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
        assert (again.checkpoint.job, again.checkpoint.step, again.checkpoint.manifest.digest) == (
            job.id,
            20,
            last.digest,
        )
        # A worker that has the manifest may fetch its files.
        crew.worker.puller.fetch(again.checkpoint.manifest, crew.tmp_path / "resumed")
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
        assert again.checkpoint.step == 10

    def test_what_is_no_checkpoint_is_refused(self, crew: Crew) -> None:
        crew.submit()
        held = crew.hold()
        files = [ManifestFile(path="adapter_config.json", size_bytes=1, sha256=digest("x"))]
        for manifest in (
            Manifest(kind="adapter", base_fingerprint=digest("tiny: base"), files=files),
            Manifest(kind="checkpoint", base_fingerprint=digest("tiny: base"), files=files),
        ):
            with pytest.raises(InvalidInput, match="checkpoint needs a manifest"):
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
        assert (version.job.id, version.job.attempt) == (job.id, 1)
        assert [file.path for file in version.files] == [
            "adapter_config.json",
            "adapter_model.safetensors",
            "generation_config.json",
        ]
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
        crew.writer.jobs.cancel(early.id)
        crew.writer.jobs.cancel(job.id)
        crew.fail(held, "cancelled")
        # Kept on cancel.
        assert [c.step for c in crew.checkpoints(job.id)] == [30, 20, 10]
        last = crew.submit(from_checkpoint=CheckpointRef(job=job.id), adapter=f"{crew.space}/b")
        chosen = crew.submit(from_checkpoint=CheckpointRef(job=job.id, step=10))
        assert last.request["from_checkpoint"] == {"job": job.id, "step": 30}
        assert [crew.hold().checkpoint.step for _ in range(2)] == [30, 10]  # type: ignore[union-attr]
        # The one that is gone on from is kept.
        assert [c.expires_at for c in crew.checkpoints(job.id)] == [None, None, None]
        with pytest.raises(InvalidInput, match="another columns"):
            # A field that is sent only where it is used.
            crew.submit(
                from_checkpoint=CheckpointRef(job=job.id), spec=SPEC.model_copy(update={"columns": "text=body"})
            )
        with pytest.raises(InvalidInput, match="another lr, seed"):
            crew.submit(from_checkpoint=CheckpointRef(job=job.id), spec=SPEC.model_copy(update={"lr": 0.01, "seed": 4}))
        with pytest.raises(InvalidInput, match="another use_dora"):
            crew.submit(from_checkpoint=CheckpointRef(job=job.id), spec=SPEC.model_copy(update={"use_dora": True}))
        with pytest.raises(NotFound, match="no checkpoint of step 15"):
            crew.submit(from_checkpoint=CheckpointRef(job=job.id, step=15))
        with pytest.raises(NotFound, match="no checkpoint"):
            crew.submit(from_checkpoint=CheckpointRef(job=chosen.id))
        with pytest.raises(NotFound, match="no job"):
            crew.submit(from_checkpoint=CheckpointRef(job="none"))

    def test_whoever_goes_on_from_another_job_is_told_the_day_of_that_one(self, crew: Crew) -> None:
        job = crew.submit(template_date="2026-01-31")
        crew.checkpoint(crew.hold(), 10)
        start = CheckpointRef(job=job.id)
        assert crew.submit(from_checkpoint=start).request["template_date"] == "2026-01-31"
        with pytest.raises(InvalidInput, match="another template_date"):
            crew.submit(from_checkpoint=start, template_date="2026-02-01")

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
        crew.writer.jobs.cancel(later.id)
        crew.writer.jobs.cancel(last.id)
        # The last one needs nobody who goes on from it.
        assert ends() == {30: False, 20: True, 10: True}
        found = next(found for found in crew.checkpoints(job.id) if found.step == 10)
        hours = services.settings.checkpoint_hours
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
        friend.datasets.add(rows, namespace=mine)
        body = crew.body(adapter=f"{mine}/a", from_checkpoint=CheckpointRef(job=job.id))
        started = friend.call("POST", "/jobs", JobView, body=body).id
        friend.jobs.cancel(started)
        friend.jobs.cancel(friend.call("POST", f"/jobs/{started}/retry", JobView).id)
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
        crew.worker.puller.fetch(again.checkpoint.manifest, crew.tmp_path / "kept")
