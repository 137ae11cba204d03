"""What anybody may do with jobs: submit, look, cancel."""

from __future__ import annotations

import secrets

from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from registry.audit.service import record
from registry.auth.principal import Principal
from registry.db import Database, utc_now
from registry.errors import Conflict, NotFound
from registry.jobs import events
from registry.jobs.lifecycle import FINAL
from registry.jobs.models import Job
from registry.jobs.pinning import pin
from registry.paging import Paged, page_of
from registry.queue import Queue
from registry.quotas.limits import limits_of, require_room
from sdk.schemas.events import Progress
from sdk.schemas.jobs import JobState, JobSubmission, JobView
from sdk.schemas.wire import digest_of


class Jobs:
    """The service over the table of jobs, for clients."""

    def __init__(self, db: Database, queue: Queue, *, embedded: bool) -> None:
        self._db = db
        self._queue = queue
        #: In embedded mode client and worker share one machine, so every folder is a shared path.
        self._embedded = embedded

    def submit(self, *, submission: JobSubmission, who: Principal, idempotency_key: str | None = None) -> JobView:
        """Accept a job, its refs pinned to exact versions; then tell the queue.

        The same key with the same request gives the same job; with another request it raises Conflict. Raises
        NotFound for a base, dataset or ref, Forbidden, InvalidBase for a base that no worker can reach, QuotaExceeded.
        """
        asked = digest_of(submission.model_dump(mode="json"))
        try:
            job, fresh = self._insert(submission, asked, who, idempotency_key)
        except IntegrityError:
            # The same key was used at the same moment; the other call's job is the answer.
            job, fresh = self._insert(submission, asked, who, idempotency_key)
        if fresh:
            self._queue.announce(job.id, job.kind)
        return job

    def _insert(self, submission: JobSubmission, asked: str, who: Principal, key: str | None) -> tuple[JobView, bool]:
        with self._db.write() as session:
            if key is not None:
                earlier = session.scalars(
                    select(Job).where(Job.created_by == who.name, Job.idempotency_key == key)
                ).first()
                if earlier is not None:
                    if earlier.request_digest != asked:
                        raise Conflict(
                            "this idempotency key was used for another request; use a new key", param="idempotency_key"
                        )
                    return view(earlier), False
            pinned = pin(session, submission.request, who, embedded=self._embedded)
            _require_room(session, pinned.namespace)
            request = pinned.request
            job = Job(
                id=secrets.token_hex(6),
                namespace=pinned.namespace,
                kind=request.kind,
                state=JobState.QUEUED,
                subject=pinned.subject,
                request=request.model_dump(mode="json"),
                request_digest=asked,
                idempotency_key=key,
                priority=submission.priority,
                base_fingerprint=pinned.base_fingerprint,
                created_by=who.name,
            )
            session.add(job)
            session.flush()
            events.record_state(session, job)
            after = {"kind": job.kind, "about": job.subject}
            record(session, who, "job.submit", job.namespace, job.id, after=after)
            return view(job), True

    def get(self, job_id: str, *, who: Principal) -> JobView:
        """Return a job. Raises NotFound."""
        with self._db.read() as session:
            return view(find_job(session, job_id, who))

    def list(self, *, state: str | None, cursor: str | None, limit: int, who: Principal) -> Paged[JobView]:
        """The jobs that the caller may see, the newest first."""
        query = select(Job).where(who.within(Job.namespace))
        if state is not None:
            query = query.where(Job.state == state)
        with self._db.read() as session:
            return page_of(
                session,
                query,
                Job.created_at,
                Job.id,
                cursor=cursor,
                limit=limit,
                views=lambda jobs: [view(job) for job in jobs],
                newest_first=True,
            )

    def cancel(self, job_id: str, *, who: Principal) -> JobView:
        """Cancel a queued job at once; ask the worker of a running one to stop. A final job stays as it is."""
        with self._db.write() as session:
            before = find_job(session, job_id, who, action="write").state
            cancelled = session.execute(
                update(Job)
                .where(Job.id == job_id, Job.state == JobState.QUEUED)
                .values(state=JobState.CANCELLED, cancel_requested=True, finished_at=utc_now(), reason="cancelled")
                .returning(Job.id)
            ).first()
            asked = session.execute(
                update(Job)
                .where(Job.id == job_id, Job.state == JobState.RUNNING)
                .values(cancel_requested=True)
                .returning(Job.id)
            ).first()
            job = session.get_one(Job, job_id, populate_existing=True)
            if cancelled is not None:
                events.record_state(session, job)
            if cancelled is not None or asked is not None:
                record(session, who, "job.cancel", job.namespace, job.id, before={"state": before})
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


def find_job(session: Session, job_id: str, who: Principal, *, action: str = "read") -> Job:
    """Return the row of a job. Raises NotFound, Forbidden where `action` is not allowed in its namespace."""
    missing = f"there is no job {job_id[:64]!a}; list them with: adapterctl jobs list"
    job = session.get(Job, job_id)
    if job is None:
        raise NotFound(missing, param="job")
    who.require(action, job.namespace, missing=missing, param="job")
    return job


def unfinished(session: Session, namespace: str) -> int:
    """How many jobs of a namespace wait or run."""
    waiting = select(func.count()).select_from(Job).where(Job.namespace == namespace, Job.state.not_in(FINAL))
    return session.scalar(waiting) or 0


def _require_room(session: Session, namespace: str) -> None:
    limits = limits_of(session, namespace)
    if limits is not None and limits.max_jobs is not None:
        require_room(namespace, "unfinished jobs", unfinished(session, namespace), 1, limits.max_jobs)


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
