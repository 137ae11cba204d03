"""The row of a checkpoint, which the namespace of its job pays for."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from registry.db.statements import upsert
from registry.db.types import utc_now
from registry.jobs.models import Checkpoint, Job
from registry.usage.charging import charge, record_bytes
from sdk.schemas.manifest import Manifest
from sdk.schemas.training_report import TrainingReport


def store_checkpoint(
    session: Session,
    job: Job,
    *,
    step: int,
    total: int,
    manifest: Manifest,
    report: TrainingReport,
    others_end_at: datetime,
) -> Checkpoint:
    """Store a checkpoint of a job whose row the caller has locked, and whose manifest is recorded; from then on the others
    expire.

    A step that is passed again replaces its earlier record. The commit may raise QuotaExceeded.
    """
    last = select(func.max(Checkpoint.seq)).where(Checkpoint.job_id == job.id)
    said = report.model_dump(mode="json")
    report_bytes = record_bytes(said, manifest.canonical())
    values = {
        "seq": (session.scalar(last) or 0) + 1,
        "total": total,
        "attempt": job.attempt,
        "manifest_digest": manifest.digest,
        "size_bytes": manifest.size_bytes,
        "report": said,
        "record_bytes": report_bytes,
        "created_at": utc_now(),
        "kept": False,
        "expires_at": None,
    }
    sizes = select(Checkpoint.size_bytes, Checkpoint.record_bytes)
    same = session.execute(sizes.where(Checkpoint.job_id == job.id, Checkpoint.step == step)).first()
    size_bytes, taken_bytes = (0, 0) if same is None else same
    charge(session, job.namespace, checkpoints=manifest.size_bytes - size_bytes, records=report_bytes - taken_bytes)
    upsert(session, Checkpoint, {"job_id": job.id, "step": step}, values)
    # Also those of later steps: an attempt that could not resume from them has started again.
    others = (Checkpoint.job_id == job.id, Checkpoint.step != step)
    due = (Checkpoint.expires_at.is_(None), Checkpoint.kept.is_(False))
    session.execute(update(Checkpoint).where(*others, *due).values(expires_at=others_end_at))
    return session.get_one(Checkpoint, (job.id, step), populate_existing=True)
