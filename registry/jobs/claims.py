"""What workers do with jobs: claim, hold by heartbeats, hand in.

Every move is one conditional UPDATE on (job, state, attempt); whoever changes no row has lost and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from registry.artifacts.manifests import read_manifest
from registry.auth.principal import SYSTEM, Principal
from registry.catalog.bases import find_base, source_of
from registry.catalog.resolve import exact_ref, find_version, parse_ref
from registry.datasets.service import find_dataset
from registry.db import Database, db_epoch_s, insert_if_new, utc_now
from registry.errors import Invalid, RegistryError, StaleAttempt
from registry.jobs import events
from registry.jobs.models import Job, Worker
from registry.jobs.service import find_job, view
from sdk.schemas.jobs import (
    Assignment,
    BaseChoice,
    BaseSource,
    ClaimRequest,
    Completion,
    EvaluationRequest,
    Failure,
    Heartbeat,
    HeartbeatReply,
    JobState,
    JobView,
    MergeRequest,
    TargetSource,
    TrainingRequest,
    WorkerInfo,
)
from sdk.schemas.training import QuantizationRecipe

#: Makes a job succeed within the effect's own last transaction, with this result.
Succeed = Callable[[Session, dict[str, Any]], None]


class Effect(Protocol):
    """What a job's completion does in another room. It must call `succeed` in the transaction that does it."""

    def __call__(self, *, job: JobView, completion: Completion, who: Principal, succeed: Succeed) -> None:
        """Do it. Raise a RegistryError to refuse the completion."""


class Claims:
    """The service over the table of jobs, for workers."""

    def __init__(self, db: Database, effects: Mapping[str, Effect], *, lease_s: float, max_attempts: int) -> None:
        self._db = db
        self._effects = effects
        self._lease_s = lease_s
        self._max_attempts = max_attempts

    def claim(self, *, claim: ClaimRequest, who: Principal) -> Assignment | None:
        """Give a worker the job that suits it best, or None where there is none for it."""
        self.requeue_expired()
        with self._db.write() as session:
            _remember(session, claim.worker)
            while (job_id := self._best(session, claim, who)) is not None:
                won = session.execute(
                    update(Job)
                    .where(Job.id == job_id, Job.state == JobState.QUEUED)
                    .values(
                        state=JobState.RUNNING,
                        attempt=Job.attempt + 1,
                        worker=claim.worker.name,
                        lease_until_s=db_epoch_s() + self._lease_s,
                        started_at=utc_now(),
                        progress=None,
                    )
                    .returning(Job.id)
                ).first()
                if won is None:
                    continue
                job = session.get_one(Job, job_id, populate_existing=True)
                events.record_state(session, job, f"attempt {job.attempt} on {claim.worker.name}")
                try:
                    return self._assignment(session, job)
                except RegistryError as error:
                    # What it needs is gone since it was submitted. Left in the queue, it would stop every worker.
                    _finish(session, job.id, job.attempt, JobState.FAILED, reason="gone", message=error.message)
        return None

    def _best(self, session: Session, claim: ClaimRequest, who: Principal) -> str | None:
        """The queued job with the highest priority; among those one whose base is cached, the hinted one, the oldest."""
        query = select(Job.id, Job.priority, Job.base_fingerprint).where(
            Job.state == JobState.QUEUED, Job.kind.in_(claim.worker.kinds), who.within(Job.namespace, "work")
        )
        waiting = session.execute(query.order_by(Job.priority.desc(), Job.created_at).limit(200)).all()
        cached = set(claim.worker.cached_bases)
        ranked = sorted(
            waiting, key=lambda job: (-job.priority, job.base_fingerprint not in cached, job.id != claim.hint)
        )
        return ranked[0].id if ranked else None

    def _assignment(self, session: Session, job: Job) -> Assignment:
        request = _request(job)
        base: BaseSource | None = None
        targets: list[TargetSource] = []
        digests: list[str] = []
        if isinstance(request, TrainingRequest):
            base = _source(session, request.base)
            digests = [digest for digest in (request.data, request.eval_data) if digest is not None]
        elif isinstance(request, MergeRequest):
            targets = [_target(session, request.ref, None)]
        else:
            targets = [_target(session, target.ref, target.base) for target in request.targets]
            digests = [request.data]
        return Assignment(
            job=job.id,
            attempt=job.attempt,
            lease_s=self._lease_s,
            request=request,
            base=base,
            targets=targets,
            datasets={digest: find_dataset(session, digest, SYSTEM).format for digest in digests},
        )

    def heartbeat(self, *, job_id: str, beat: Heartbeat, who: Principal) -> HeartbeatReply:
        """Renew the lease and keep what the worker reports. Raises NotFound, StaleAttempt."""
        progress = next((event.progress for event in reversed(beat.events) if event.progress is not None), None)
        with self._db.write() as session:
            values: dict[str, Any] = {"lease_until_s": db_epoch_s() + self._lease_s}
            if progress is not None:
                values["progress"] = progress.model_dump(exclude_none=True)
            held = session.execute(
                update(Job).where(*_held(job_id, beat.attempt)).values(**values).returning(Job.id)
            ).first()
            if held is None:
                raise _stale(job_id, beat.attempt)
            job = session.get_one(Job, job_id, populate_existing=True)
            _require_worker(job, who)
            events.record(session, job, beat.events)
            return HeartbeatReply(cancel=job.cancel_requested, lease_s=self._lease_s)

    def complete(self, *, job_id: str, completion: Completion, who: Principal) -> JobView:
        """Record an attempt's result and make its effects, both or neither. Raises StaleAttempt, Verification, Invalid."""
        with self._db.read() as session:
            job = find_job(session, job_id, who, action="work")
            if job.state == JobState.SUCCEEDED and job.attempt == completion.attempt:
                # The first answer was lost on its way; the work is done.
                return view(job)
            if job.state != JobState.RUNNING or job.attempt != completion.attempt:
                raise _stale(job_id, completion.attempt)
            present = view(job)

        def succeed(session: Session, result: dict[str, Any]) -> None:
            _finish(session, job_id, completion.attempt, JobState.SUCCEEDED, result=result)

        self._effects[present.kind](job=present, completion=completion, who=who, succeed=succeed)
        with self._db.read() as session:
            return view(session.get_one(Job, job_id))

    def fail(self, *, job_id: str, failure: Failure, who: Principal) -> JobView:
        """Record that an attempt ended without a result. Raises NotFound, StaleAttempt."""
        state = JobState.CANCELLED if failure.reason == "cancelled" else JobState.FAILED
        with self._db.write() as session:
            find_job(session, job_id, who, action="work")
            _finish(session, job_id, failure.attempt, state, reason=failure.reason, message=failure.message)
            return view(session.get_one(Job, job_id))

    def requeue_expired(self) -> int:
        """Queue again each job whose worker fell silent, give up those with too many attempts; return how many."""
        with self._db.write() as session:
            expired = session.execute(
                select(Job.id, Job.attempt, Job.cancel_requested).where(
                    Job.state == JobState.RUNNING, Job.lease_until_s < db_epoch_s()
                )
            ).all()
            moved = 0
            for job_id, attempt, cancel in expired:
                values: dict[str, Any] = {"state": JobState.QUEUED, "worker": None}
                message = "its worker fell silent"
                if cancel:
                    values = {"state": JobState.CANCELLED, "reason": "cancelled", "finished_at": utc_now()}
                elif attempt >= self._max_attempts:
                    message = f"its worker vanished in each of {attempt} attempts; look at the worker's log, then submit it again"
                    values = {
                        "state": JobState.FAILED,
                        "reason": "worker_lost",
                        "message": message,
                        "finished_at": utc_now(),
                    }
                # The lease is looked at once more: a heartbeat, a result or another look may have come in between.
                won = session.execute(
                    update(Job)
                    .where(*_held(job_id, attempt), Job.lease_until_s < db_epoch_s())
                    .values(lease_until_s=None, **values)
                    .returning(Job.id)
                ).first()
                if won is not None:
                    events.record_state(session, session.get_one(Job, job_id, populate_existing=True), message)
                    moved += 1
            return moved


def _require_worker(job: Job, who: Principal) -> None:
    missing = f"there is no job {job.id} for this worker; it must drop it"
    who.require("work", job.namespace, missing=missing, param="job")


def _held(job_id: str, attempt: int) -> tuple[ColumnElement[bool], ...]:
    return Job.id == job_id, Job.state == JobState.RUNNING, Job.attempt == attempt


def _stale(job_id: str, attempt: int) -> StaleAttempt:
    return StaleAttempt(f"attempt {attempt} no longer holds job {job_id}; this worker must drop it")


def _finish(session: Session, job_id: str, attempt: int, state: JobState, **values: Any) -> None:
    """Move a held job to a final state. Raises StaleAttempt, which rolls the caller's transaction back."""
    done = session.execute(
        update(Job)
        .where(*_held(job_id, attempt))
        .values(state=state, finished_at=utc_now(), lease_until_s=None, **values)
        .returning(Job.id)
    ).first()
    if done is None:
        raise _stale(job_id, attempt)
    job = session.get_one(Job, job_id, populate_existing=True)
    events.record_state(session, job, job.message)


def _request(job: Job) -> TrainingRequest | EvaluationRequest | MergeRequest:
    kinds: dict[str, type[TrainingRequest | EvaluationRequest | MergeRequest]] = {
        "training": TrainingRequest,
        "evaluation": EvaluationRequest,
        "merge": MergeRequest,
    }
    return kinds[job.kind].model_validate(job.request)


def _source(session: Session, choice: BaseChoice) -> BaseSource:
    if choice.fingerprint is None:
        location = f"hf://{choice.id}@{choice.revision}"
        return BaseSource(id=choice.id, revision=choice.revision, fingerprint=None, location=location)
    return source_of(session, find_base(session, choice.fingerprint))


def _target(session: Session, ref: str | None, base: BaseChoice | None) -> TargetSource:
    if ref is not None:
        version = find_version(session, parse_ref(ref), SYSTEM)
        recipe = version.quantization
        return TargetSource(
            label=exact_ref(version),
            digest=version.digest,
            manifest=read_manifest(session, version.digest),
            base=source_of(session, version.base),
            quantization=None if recipe is None else QuantizationRecipe.model_validate(recipe),
        )
    if base is None:
        raise Invalid("an evaluation target without ref and base")
    return TargetSource(
        label=f"base:{base.id}", digest=None, manifest=None, base=_source(session, base), quantization=None
    )


def _remember(session: Session, worker: WorkerInfo) -> None:
    values = {
        "device": worker.device,
        "memory_bytes": worker.memory_bytes,
        "free_memory_bytes": worker.free_memory_bytes,
        "cached_bases": worker.cached_bases,
        "shared_paths": worker.shared_paths,
        "version": worker.version,
        "seen_at": utc_now(),
    }
    insert_if_new(session, Worker, name=worker.name, **values)
    session.execute(update(Worker).where(Worker.name == worker.name).values(**values))
