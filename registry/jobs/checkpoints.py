"""Checkpoints of trainings: recorded while they run, published, and expired."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from pydantic import Field
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session, defer

from registry.artifacts.manifests import blobs_of, read_manifest, record_manifest
from registry.artifacts.service import Artifacts
from registry.artifacts.uploads import finish_upload
from registry.catalog.publishing.publisher import Publisher
from registry.db.database import Database
from registry.db.stored_json import read_stored, readable, view_of
from registry.db.types import db_now
from registry.errors import Invalid
from registry.jobs import attempts
from registry.jobs.checkpoint_pins import NEWEST_FIRST, find_checkpoint, training_of
from registry.jobs.kinds.rules import KeepSeries
from registry.jobs.kinds.training_outcome import require_asked, settle
from registry.jobs.lifecycle import UNFINISHED, find_job
from registry.jobs.models import Checkpoint, Job
from registry.jobs.stored_checkpoints import store_checkpoint
from registry.principal import Principal
from registry.usage.charging import charge
from sdk.formats.adapter_files import CONFIG_FILE, SERVING_FILES, WEIGHTS_FILE
from sdk.schemas.catalog import JobRef, Publication, Published
from sdk.schemas.job_requests import CheckpointRef
from sdk.schemas.jobs import CheckpointPublication, CheckpointView
from sdk.schemas.manifest import Manifest
from sdk.schemas.training_report import TrainingReport
from sdk.schemas.version_records import TrainingRecord
from sdk.schemas.wire import Wire
from sdk.schemas.work import CheckpointRecord

#: How many checkpoints of a job a list has.
_MOST_LISTED = 1000


class StoredCheckpoints:
    """The service over the table of checkpoints."""

    def __init__(
        self, db: Database, artifacts: Artifacts, publisher: Publisher, *, keep_series: KeepSeries, kept_hours: float
    ) -> None:
        self._db = db
        self._artifacts = artifacts
        self._publisher = publisher
        self._keep_series = keep_series
        #: How long a checkpoint is kept after a later one of its job was recorded.
        self._kept = timedelta(hours=kept_hours)

    def record(self, *, job_id: str, record: CheckpointRecord, who: Principal) -> CheckpointView:
        """Keep a checkpoint that the attempt that holds the job has stored; from then on the earlier ones expire.

        Raises NotFound, StaleAttempt, QuotaExceeded, Verification for bytes that are not what they must be.
        """
        manifest = record.manifest
        paths = {file.path for file in manifest.files}
        if manifest.kind != "checkpoint" or not {CONFIG_FILE, WEIGHTS_FILE} <= paths:
            raise Invalid(
                f"a checkpoint needs a manifest of the kind 'checkpoint', with {CONFIG_FILE} and {WEIGHTS_FILE}"
            )
        with self._db.read() as session:
            found = find_job(session, job_id, who, action="work")
            request = training_of(found)
            if session.scalar(select(Job.id).where(*attempts.held(job_id, record.attempt, who))) is None:
                raise attempts.stale(job_id, record.attempt)
        require_asked(request, manifest, record.report)
        self._artifacts.verify(upload=record.upload, blobs=blobs_of(manifest), who=who)
        with self._db.write() as session:
            job = attempts.hold(session, job_id, record.attempt, who)
            record_manifest(session, manifest, namespace=job.namespace)
            finish_upload(session, record.upload)
            row = store_checkpoint(
                session,
                job,
                step=record.step,
                total=record.total,
                manifest=manifest,
                report=record.report,
                others_end_at=db_now(session) + self._kept,
            )
            return _present(row, record.report.metrics)

    def list(self, job_id: str, *, who: Principal) -> list[CheckpointView]:
        """The newest checkpoints of a job, the last one first. Raises NotFound."""
        with self._db.read() as session:
            find_job(session, job_id, who)
            # Reports may be long, and only their metrics are shown.
            rows = select(Checkpoint, Checkpoint.report["metrics"]).options(defer(Checkpoint.report))
            newest = rows.where(Checkpoint.job_id == job_id).order_by(*NEWEST_FIRST).limit(_MOST_LISTED)
            return [_present(row, metrics) for row, metrics in session.execute(newest)]

    def publish(self, job_id: str, step: int, *, publication: CheckpointPublication, who: Principal) -> Published:
        """Make a version from a checkpoint, with the job and the step in its lineage.

        Raises NotFound, Verification if its bytes are refused, and what publishing raises.
        """
        with self._db.read() as session:
            job = find_job(session, job_id, who)
            row = find_checkpoint(session, CheckpointRef(job=job_id, step=step))
            settled, reported, notes = publishable(session, job, row, TrainingRecord(checkpoint_step=step))
            made = JobRef(id=job.id, attempt=row.attempt)
        said = {"tags": publication.tags, "description": publication.description}
        named = settled.model_copy(update={"adapter": publication.adapter or settled.adapter, **said})
        with self._publisher.publishing(publication=named, who=who, job=made, reported=reported, notes=notes) as (
            session,
            published,
        ):
            self._keep_series(session, made, published.version, step)
            return published

    def expire(self) -> int:
        """Forget expired checkpoints; `gc` removes their files. Return how many."""
        with self._db.write() as session:
            self._let_go(session)
            over = delete(Checkpoint).where(Checkpoint.expires_at < db_now(session))
            gone = session.execute(
                over.returning(Checkpoint.job_id, Checkpoint.size_bytes, Checkpoint.record_bytes)
            ).all()
            jobs = select(Job.id, Job.namespace).where(Job.id.in_({row.job_id for row in gone}))
            namespaces = {row.id: row.namespace for row in session.execute(jobs)} if gone else {}
            for row in gone:
                charge(session, namespaces[row.job_id], checkpoints=-row.size_bytes, records=-row.record_bytes)
            return len(gone)

    def _let_go(self, session: Session) -> None:
        """Set an expiry for those that were kept for jobs that have ended by now. The last one of a job has none."""
        rows = select(Checkpoint.job_id, Checkpoint.step).where(Checkpoint.kept).with_for_update()
        kept = [tuple(row) for row in session.execute(rows)]
        if not kept:
            return
        # Read while holding the locks: a transaction that names one of these has either done so, or waits.
        job, step = (Job.request[("from_checkpoint", name)].as_string() for name in ("job", "step"))
        waiting = (Job.state.in_(UNFINISHED), job.is_not(None))
        named = {tuple(row) for row in session.execute(select(job, step).where(*waiting))}
        for key in kept:
            if (key[0], str(key[1])) in named:
                continue
            last = select(Checkpoint.step).where(Checkpoint.job_id == key[0]).order_by(*NEWEST_FIRST).limit(1)
            end = None if session.scalar(last) == key[1] else db_now(session) + self._kept
            row = update(Checkpoint).where(Checkpoint.job_id == key[0], Checkpoint.step == key[1])
            session.execute(row.values(kept=False, expires_at=end))


def publishable(
    session: Session, job: Job, row: Checkpoint, about: TrainingRecord
) -> tuple[Publication, list[str], list[str]]:
    """Return the version that a checkpoint can become, whose record also says `about`; what of that only its worker stated;
    and what its own numbers say against it.

    Raises NotFound, Unreadable, Verification if it is not what the job asked for.
    """
    manifest = read_manifest(session, row.manifest_digest)
    request = training_of(job)
    report = read_stored(TrainingReport, row.report, of=f"step {row.step} of job {job.id}")
    files = [file for file in manifest.files if file.path in (CONFIG_FILE, WEIGHTS_FILE, *SERVING_FILES)]
    settled, reported = settle(
        request,
        Publication(
            adapter=request.adapter,
            manifest=Manifest(kind="adapter", base_fingerprint=manifest.base_fingerprint, files=files),
            lora=report.lora,
            quantization=report.quantization,
            dataset=report.dataset_use(request.data),
            training={**report.training, **about.flat()},
            metrics=report.metrics,
            libraries=report.libraries,
        ),
    )
    return settled, reported, report.warnings


class _Scores(Wire):
    """The part of a report that lists show."""

    metrics: dict[str, float] = Field(default_factory=dict)


def _present(row: Checkpoint, metrics: Any) -> CheckpointView:
    scores = readable(_Scores, {"metrics": metrics})
    shown = {} if scores is None else scores.metrics
    return view_of(CheckpointView, row, job=row.job_id, digest=row.manifest_digest, metrics=shown)
