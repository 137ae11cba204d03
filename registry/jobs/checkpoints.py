"""Checkpoints of trainings: recorded while they run, published, and expired."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import Session, defer

from registry.artifacts.manifests import blobs_of, read_manifest, record_manifest
from registry.artifacts.service import Artifacts
from registry.artifacts.uploads import finish_upload
from registry.catalog.publishing.publisher import Publisher
from registry.catalog.versions.served_probes import keep_trained
from registry.db.database import Database
from registry.db.stored_json import read_stored, readable, view_of
from registry.db.types import db_now
from registry.errors import Invalid
from registry.jobs import attempts
from registry.jobs.checkpoint_pins import NEWEST_FIRST, find_checkpoint, training_of
from registry.jobs.kinds.rules import KeepSeries
from registry.jobs.kinds.training_outcome import require_asked, settle
from registry.jobs.letting_go import GiveUpScores, SweepsWanting, let_go, remove_expired
from registry.jobs.lifecycle import find_job
from registry.jobs.members import is_kept_result
from registry.jobs.models import Checkpoint, Job
from registry.jobs.stored_checkpoints import store_checkpoint
from registry.principal import Principal
from sdk.formats.adapter_files import CONFIG_FILE, SERVING_FILES, WEIGHTS_FILE
from sdk.schemas.catalog import JobRef, Publication, Published
from sdk.schemas.job_requests import CheckpointRef
from sdk.schemas.jobs import CheckpointPublication, CheckpointView
from sdk.schemas.manifest import Manifest
from sdk.schemas.serving import ServedProbe
from sdk.schemas.training_report import TrainingReport
from sdk.schemas.version_records import TrainingRecord
from sdk.schemas.wire import Wire
from sdk.schemas.work import CheckpointRecord

#: How many checkpoints of a job a list has.
_MOST_LISTED = 1000


class StoredCheckpoints:
    """The service over the table of checkpoints."""

    def __init__(
        self,
        db: Database,
        artifacts: Artifacts,
        publisher: Publisher,
        *,
        keep_series: KeepSeries,
        kept_hours: float,
        wanting: SweepsWanting,
        give_up_scores: GiveUpScores,
    ) -> None:
        self._db = db
        self._artifacts = artifacts
        self._publisher = publisher
        self._keep_series = keep_series
        self._wanting = wanting
        self._give_up_scores = give_up_scores
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
            is_result = is_kept_result(session, row)
            about = TrainingRecord() if is_result else TrainingRecord(checkpoint_step=step)
            settled, reported, notes = publishable(session, job, row, about)
            if is_result:
                member = TrainingRecord(sweep=f"{job.sweep}/{job.sweep_number}")
                settled = settled.model_copy(update={"training": {**(settled.training or {}), **member.flat()}})
            made, answers, worker = JobRef(id=job.id, attempt=row.attempt), answers_of(row), job.worker
        said = {"tags": publication.tags, "description": publication.description}
        named = settled.model_copy(update={"adapter": publication.adapter or settled.adapter, **said})
        with self._publisher.publishing(publication=named, who=who, job=made, reported=reported, notes=notes) as (
            session,
            published,
        ):
            self._keep_series(session, made, published.version, step)
            keep_trained(session, published.version, answers, created_by=worker or who.name)
            return published

    def expire(self) -> int:
        """Forget expired checkpoints; `gc` removes their files. Return how many."""
        with self._db.write() as session:
            let_go(session, kept=self._kept, wanting=self._wanting)
        # Another transaction: whoever publishes the best of a sweep locks its files first, and then the sweep.
        with self._db.write() as session:
            return remove_expired(session, give_up_scores=self._give_up_scores)


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


def answers_of(row: Checkpoint) -> ServedProbe | None:
    """Return what the version that a checkpoint can become answers; None if the training had not ended there."""
    return read_stored(TrainingReport, row.report, of=f"step {row.step} of job {row.job_id}").served_probe


class _Scores(Wire):
    """The part of a report that lists show."""

    metrics: dict[str, float] = Field(default_factory=dict)


def _present(row: Checkpoint, metrics: Any) -> CheckpointView:
    scores = readable(_Scores, {"metrics": metrics})
    shown = {} if scores is None else scores.metrics
    return view_of(CheckpointView, row, job=row.job_id, digest=row.manifest_digest, metrics=shown)
