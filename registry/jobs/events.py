"""Writing and reading what happened to a job."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.auth.principal import Principal
from registry.db import Database
from registry.errors import NotFound
from registry.jobs.models import Job, JobEvent
from sdk.schemas.events import Event, NewEvent
from sdk.schemas.jobs import JobState


def record_state(session: Session, job: Job, message: str | None = None) -> None:
    """Append the job's present state to its events."""
    session.add(JobEvent(job_id=job.id, attempt=job.attempt, kind="state", state=job.state, message=message))


def record(session: Session, job: Job, events: list[NewEvent]) -> None:
    """Append what a worker reported."""
    for event in events:
        progress = None if event.progress is None else event.progress.model_dump(exclude_none=True)
        session.add(
            JobEvent(job_id=job.id, attempt=job.attempt, kind=event.kind, progress=progress, message=event.message)
        )


def read(db: Database, *, job_id: str, after: int, limit: int, who: Principal) -> tuple[list[Event], JobState]:
    """Return events with a `seq` above `after`, and the job's state, which was read before them."""
    with db.read() as session:
        job = session.get(Job, job_id)
        missing = f"there is no job {job_id[:64]!a}; list them with: adapterctl jobs list"
        if job is None:
            raise NotFound(missing, param="job")
        who.require("read", job.namespace, missing=missing, param="job")
        query = (
            select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.seq > after).order_by(JobEvent.seq).limit(limit)
        )
        events = [
            Event.model_validate(
                {
                    "seq": row.seq,
                    "at": row.at,
                    "attempt": row.attempt,
                    "kind": row.kind,
                    "state": row.state,
                    "progress": row.progress,
                    "message": row.message,
                }
            )
            for row in session.scalars(query)
        ]
        return events, JobState(job.state)
