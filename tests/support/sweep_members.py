"""Members of sweeps that have kept their adapters, as the completion of such a training leaves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import update

from registry.artifacts.manifests import blobs_of, record_manifest
from registry.artifacts.uploads import finish_upload
from registry.jobs import attempts
from registry.jobs.models import Job
from registry.jobs.stored_checkpoints import store_checkpoint
from sdk.schemas.job_requests import BaseChoice, TrainingRequest
from sdk.schemas.jobs import JobSubmission, JobView
from sdk.schemas.training import TrainingSpec
from support import calls
from support.merging_desk import MergingDesk, value
from support.people import SEEDS
from support.registries import World
from support.small import write_adapter

#: What the adapters of `write_adapter` are trained with.
SPEC = TrainingSpec(method="lora", rank=2, alpha=4.0, dropout=0.0, targets="q_proj,v_proj")


def submitted(world: World, desk: MergingDesk, data: Path, sweep: str, number: int, **asked: Any) -> str:
    """Submit a training, and make it a member; return its id."""
    rows = desk.writer.datasets.add(data, namespace=desk.space).digest
    base = BaseChoice(id=desk.base.id, fingerprint=desk.base.fingerprint)
    request = TrainingRequest(**{"adapter": desk.named("a"), "base": base, "data": rows, "spec": SPEC, **asked})
    job = desk.writer.call("POST", "/jobs", JobView, body=JobSubmission(request=request)).id
    with world.services.db.write() as session:
        session.execute(update(Job).where(Job.id == job).values(sweep=sweep, sweep_number=number))
    return job


def kept(
    world: World, desk: MergingDesk, data: Path, sweep: str, number: int = 1, folder: Path | None = None, **asked: Any
) -> str:
    """Train a member; return its ref."""
    job_id = submitted(world, desk, data, sweep, number, **asked)
    held = desk.claim()
    assert held.job == job_id
    folder = folder or write_adapter(desk.tmp_path / f"adapter-{next(SEEDS)}", value=value())
    package = calls.packed(folder, base_id=desk.base.id, base_revision=None, base_fingerprint=desk.base.fingerprint)
    upload = desk.worker.uploader.upload(package.sources, "sending", desk.space)
    who = world.services.tokens.check(desk.worker.config.token)
    world.services.artifacts.verify(upload=upload, blobs=blobs_of(package.manifest), who=who)
    with world.services.db.write() as session:
        job = attempts.hold(session, job_id, held.attempt, who)
        record_manifest(session, package.manifest, namespace=job.namespace)
        finish_upload(session, upload)
        report = calls.training_report(package.lora, training={"lr": SPEC.lr}, metrics={"loss": 0.5, "eval_loss": 0.6})
        store_checkpoint(
            session,
            job,
            step=7,
            total=9,
            manifest=package.manifest,
            report=report,
            others_end_at=attempts.db_now(session),
        )
        attempts.succeed(session, job_id, held.attempt, {"outcome": "finished"}, who=who)
    return f"sweep:{sweep}/{number}"
