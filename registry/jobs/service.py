"""What anybody may do with jobs: submit, look, cancel."""

from __future__ import annotations

import secrets
from datetime import timedelta
from urllib.parse import urlsplit

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from registry.catalog.bases import find_base
from registry.catalog.models import BaseModelRow
from registry.catalog.resolve import exact_ref, find_version, parse_ref
from registry.datasets.service import find_dataset
from registry.db import Database, utc_now
from registry.errors import Conflict, InvalidBase, NotFound
from registry.jobs import events
from registry.jobs.lifecycle import FINAL
from registry.jobs.models import Job, Worker
from registry.queue import Queue
from sdk.schemas.events import Progress
from sdk.schemas.jobs import (
    BaseChoice,
    EvaluationRequest,
    EvaluationTarget,
    JobState,
    JobSubmission,
    JobView,
    MergeRequest,
    TrainingRequest,
)
from sdk.schemas.wire import digest_of

#: A worker that was not heard of for so long does not vouch for its shared paths any more.
_WORKER_MEMORY = timedelta(days=7)

_Request = TrainingRequest | EvaluationRequest | MergeRequest


class Jobs:
    """The service over the table of jobs, for clients."""

    def __init__(self, db: Database, queue: Queue, *, embedded: bool) -> None:
        self._db = db
        self._queue = queue
        #: In embedded mode client and worker share one machine, so every folder is a shared path.
        self._embedded = embedded

    def submit(self, *, submission: JobSubmission, by: str, idempotency_key: str | None = None) -> JobView:
        """Accept a job, its refs pinned to exact versions; then tell the queue.

        The same key with the same request gives the same job; with another request it raises Conflict. Raises
        NotFound for a base, dataset or ref, InvalidBase for a base that no worker can reach.
        """
        asked = digest_of(submission.model_dump(mode="json"))
        try:
            job, fresh = self._insert(submission, asked, by, idempotency_key)
        except IntegrityError:
            # The same key was used at the same moment; the other call's job is the answer.
            job, fresh = self._insert(submission, asked, by, idempotency_key)
        if fresh:
            self._queue.announce(job.id, job.kind)
        return job

    def _insert(self, submission: JobSubmission, asked: str, by: str, key: str | None) -> tuple[JobView, bool]:
        with self._db.write() as session:
            if key is not None:
                earlier = session.scalars(select(Job).where(Job.created_by == by, Job.idempotency_key == key)).first()
                if earlier is not None:
                    if earlier.request_digest != asked:
                        raise Conflict(
                            "this idempotency key was used for another request; use a new key", param="idempotency_key"
                        )
                    return view(earlier), False
            request, subject, fingerprint = self._pin(session, submission.request)
            job = Job(
                id=secrets.token_hex(6),
                kind=request.kind,
                state=JobState.QUEUED,
                subject=subject,
                request=request.model_dump(mode="json"),
                request_digest=asked,
                idempotency_key=key,
                priority=submission.priority,
                base_fingerprint=fingerprint,
                created_by=by,
            )
            session.add(job)
            session.flush()
            events.record_state(session, job)
            return view(job), True

    def _pin(self, session: Session, request: _Request) -> tuple[_Request, str, str | None]:
        """Return the request with every name made exact, what it is about, and the base that a worker will need."""
        if isinstance(request, TrainingRequest):
            for digest in filter(None, (request.data, request.eval_data)):
                find_dataset(session, digest)
            base = self._pin_base(session, request.base)
            return request.model_copy(update={"base": base}), request.adapter, base.fingerprint
        if isinstance(request, MergeRequest):
            version = find_version(session, parse_ref(request.ref))
            self._require_reachable(session, version.base)
            ref = exact_ref(version)
            return request.model_copy(update={"ref": ref}), ref, version.base.fingerprint
        find_dataset(session, request.data)
        pinned = []
        labels = []
        fingerprint = None
        for target in request.targets:
            if target.ref is not None:
                version = find_version(session, parse_ref(target.ref))
                self._require_reachable(session, version.base)
                pinned.append(EvaluationTarget(ref=exact_ref(version)))
                labels.append(exact_ref(version))
                fingerprint = fingerprint or version.base.fingerprint
            elif target.base is not None:
                base = self._pin_base(session, target.base)
                pinned.append(EvaluationTarget(base=base))
                labels.append(f"base:{base.id}")
                fingerprint = fingerprint or base.fingerprint
        return request.model_copy(update={"targets": pinned}), " ".join(labels)[:300], fingerprint

    def _pin_base(self, session: Session, choice: BaseChoice) -> BaseChoice:
        if choice.fingerprint is None and choice.revision is not None:
            # A base of the hub at an exact revision, which a worker will fetch and fingerprint.
            return choice
        row = find_base(session, choice.fingerprint or choice.id)
        self._require_reachable(session, row)
        return BaseChoice(id=row.id, revision=row.revision, fingerprint=row.fingerprint)

    def _require_reachable(self, session: Session, base: BaseModelRow) -> None:
        """Raise InvalidBase where the base is a folder that no worker shares and whose files were not uploaded."""
        if (
            self._embedded
            or base.manifest_digest is not None
            or base.location is None
            or base.location.startswith("hf://")
        ):
            return
        folder = urlsplit(base.location).path
        recent = select(Worker.shared_paths).where(Worker.seen_at > utc_now() - _WORKER_MEMORY)
        for paths in session.scalars(recent):
            if any(folder == path or folder.startswith(path.rstrip("/") + "/") for path in paths):
                return
        raise InvalidBase(
            f"base {base.id} lies in a folder that no worker shares; upload it with: adapterctl base add FOLDER --upload",
            param="base",
        )

    def get(self, job_id: str) -> JobView:
        """Return a job. Raises NotFound."""
        with self._db.read() as session:
            return view(find_job(session, job_id))

    def list(self, *, state: str | None, limit: int) -> list[JobView]:
        """Jobs, the newest first."""
        with self._db.read() as session:
            query = select(Job).order_by(Job.created_at.desc(), Job.id).limit(limit)
            if state is not None:
                query = query.where(Job.state == state)
            return [view(job) for job in session.scalars(query)]

    def cancel(self, job_id: str) -> JobView:
        """Cancel a queued job at once; ask the worker of a running one to stop. A final job stays as it is."""
        with self._db.write() as session:
            find_job(session, job_id)
            cancelled = session.execute(
                update(Job)
                .where(Job.id == job_id, Job.state == JobState.QUEUED)
                .values(state=JobState.CANCELLED, cancel_requested=True, finished_at=utc_now(), reason="cancelled")
                .returning(Job.id)
            ).first()
            session.execute(
                update(Job).where(Job.id == job_id, Job.state == JobState.RUNNING).values(cancel_requested=True)
            )
            job = session.get_one(Job, job_id, populate_existing=True)
            if cancelled is not None:
                events.record_state(session, job)
            return view(job)

    def announce_waiting(self) -> int:
        """Tell the queue of every waiting job once more; return how many. A message too many does no harm."""
        with self._db.read() as session:
            waiting = session.execute(select(Job.id, Job.kind).where(Job.state == JobState.QUEUED)).all()
        for job_id, kind in waiting:
            self._queue.announce(job_id, kind)
        return len(waiting)

    def revive(self) -> None:
        """Have the queue see to it that somebody works, where any job still waits or runs."""
        with self._db.read() as session:
            unfinished = session.scalars(select(Job.id).where(Job.state.not_in(FINAL)).limit(1)).first()
        if unfinished is not None:
            self._queue.revive()


def find_job(session: Session, job_id: str) -> Job:
    """Return the row of a job. Raises NotFound."""
    job = session.get(Job, job_id)
    if job is None:
        raise NotFound(f"there is no job {job_id[:64]!a}; list them with: adapterctl jobs list", param="job")
    return job


def view(job: Job) -> JobView:
    """Return a job as it travels."""
    return JobView(
        id=job.id,
        kind=job.kind,
        state=JobState(job.state),
        subject=job.subject,
        attempt=job.attempt or 0,
        reason=job.reason,
        message=job.message,
        cancel_requested=bool(job.cancel_requested),
        progress=None if job.progress is None else Progress.model_validate(job.progress),
        result=job.result,
        request=job.request,
        worker=job.worker,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
    )
