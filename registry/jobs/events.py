"""Writing and reading what happened to a job."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.db.clock import utc_now
from registry.db.database import Database
from registry.db.stored_json import readable
from registry.errors import NotFound
from registry.jobs.models import Job, JobEvent
from registry.principal import Principal
from sdk.schemas.events import Event, NewEvent, Progress
from sdk.schemas.jobs import JobState
from sdk.schemas.wire import member_of

#: Progress within one phase is stored at most this often. A job's row always has the newest.
PROGRESS_EVERY = timedelta(seconds=1)
#: Lines of a log that are stored of one attempt.
LOG_LINES = 2_000


def record_state(session: Session, job: Job, message: str | None = None) -> None:
    """Append the job's present state to its events."""
    session.add(JobEvent(job_id=job.id, attempt=job.attempt, kind="state", state=job.state, message=message))


def record(session: Session, job: Job, events: list[NewEvent]) -> None:
    """Append what a worker reports, thinned out: a job that runs for days must not leave millions of rows.

    Of the progress in one report only the newest of each phase is kept, and that only where the phase is another than
    before, is complete, or was last heard of `PROGRESS_EVERY` ago. Of lines, the first `LOG_LINES` of an attempt are.
    What states a job is in, the registry says itself.
    """
    newest = {event.progress.phase: event.progress for event in events if event.progress is not None}
    kept = _worth_keeping(session, job, newest) if newest else {}
    room = _room_for_lines(session, job) if any(event.kind == "log" for event in events) else 0
    for event in events:
        if event.kind == "progress" and event.progress is not None:
            if kept.get(event.progress.phase) is event.progress:
                _append(session, job, event)
        elif event.kind == "log" and room > 0:
            _append(session, job, event)
            room -= 1
        elif event.kind == "log" and room == 0:
            said = f"this attempt logged more than {LOG_LINES} lines; the rest are in the log of the worker {job.worker}, at the level DEBUG"
            _append(session, job, NewEvent(kind="log", message=said))
            room -= 1


def _append(session: Session, job: Job, event: NewEvent) -> None:
    progress = None if event.progress is None else event.progress.model_dump(exclude_none=True)
    session.add(JobEvent(job_id=job.id, attempt=job.attempt, kind=event.kind, progress=progress, message=event.message))


def _worth_keeping(session: Session, job: Job, newest: dict[str, Progress]) -> dict[str, Progress]:
    """Those of the newest progress of each phase that say something beside the last that is stored."""
    query = select(JobEvent).where(
        JobEvent.job_id == job.id, JobEvent.attempt == job.attempt, JobEvent.kind == "progress"
    )
    last = session.scalars(query.order_by(JobEvent.seq.desc()).limit(1)).first()
    if last is None or last.progress is None or abs(utc_now() - last.at) >= PROGRESS_EVERY:
        return newest
    before = readable(Progress, last.progress)
    if before is None:
        return newest
    return {
        phase: progress
        for phase, progress in newest.items()
        if phase != before.phase or (progress.step == progress.total != before.step)
    }


def _room_for_lines(session: Session, job: Job) -> int:
    """How many more lines of the present attempt are stored; -1 once it was said that there are more."""
    lines = select(JobEvent.seq).where(
        JobEvent.job_id == job.id, JobEvent.attempt == job.attempt, JobEvent.kind == "log"
    )
    return LOG_LINES - (session.scalar(select(func.count()).select_from(lines.limit(LOG_LINES + 1).subquery())) or 0)


def read(
    db: Database, *, job_id: str, after: int, limit: int, who: Principal, last: int | None = None
) -> tuple[list[Event], JobState]:
    """Return events with a `seq` above `after`, and the job's state, which was read before them.

    They are the first `limit` of them, or the last `last`.
    """
    with db.read() as session:
        job = session.get(Job, job_id)
        missing = f"there is no job {job_id[:64]!a}; list them with: adapterctl jobs list"
        if job is None:
            raise NotFound(missing, param="job")
        who.require("read", job.namespace, missing=missing, param="job")
        query = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.seq > after)
        if last is None:
            rows = session.scalars(query.order_by(JobEvent.seq).limit(limit)).all()
        else:
            rows = session.scalars(query.order_by(JobEvent.seq.desc()).limit(last)).all()[::-1]
        found = [
            readable(
                Event,
                {
                    "seq": row.seq,
                    "at": row.at,
                    "attempt": row.attempt,
                    "kind": row.kind,
                    "state": row.state,
                    "progress": row.progress,
                    "message": row.message,
                },
            )
            for row in rows
        ]
        return [event for event in found if event is not None], member_of(JobState, job.state)
