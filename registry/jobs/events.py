"""Writing and reading what happened to a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.db.database import Database
from registry.db.stored_json import fields_of, readable
from registry.db.types import utc_now
from registry.jobs.lifecycle import find_job
from registry.jobs.models import Job, JobEvent
from registry.principal import Principal
from registry.usage.charging import charge, has_room_for_records, record_bytes
from sdk.schemas.events import Event, NewEvent, Progress
from sdk.schemas.jobs import JobState
from sdk.schemas.wire import member_of

#: Progress within one phase is stored at most this often. A job's row always has the newest.
PROGRESS_EVERY = timedelta(seconds=1)
#: How many log lines, and how many messages of its progress, are stored for one attempt.
LOG_LINES = 2_000
SAID = 200
#: How many rows of progress one attempt adds at most within `PROGRESS_EVERY`, whatever it says its phases are.
_AT_ONCE = 20
#: The most characters of a phase's name, and of what is said in it; workers send less.
_PHASE, _MESSAGE = 40, 1000
#: How many events are read at once, and after how many characters an answer ends before its limit.
_PAGE, _ENOUGH = 64, 1_000_000
#: The events of a job are counted for its namespace in steps of this many bytes: a row that all others wait for is not
#: changed with each heartbeat.
STEP_BYTES = 16 * 1024


def trimmed(events: Sequence[NewEvent]) -> list[NewEvent]:
    """What a worker reports, cut to what is stored of it: it is read again with every list of jobs."""
    return [
        event if event.progress is None else event.model_copy(update={"progress": _trimmed(event.progress)})
        for event in events
    ]


def _trimmed(progress: Progress) -> Progress:
    message = None if progress.message is None else progress.message[:_MESSAGE]
    return progress.model_copy(update={"phase": progress.phase[:_PHASE], "message": message})


def record_state(session: Session, job: Job, message: str | None = None) -> None:
    """Append the job's present state to its events."""
    session.add(JobEvent(job_id=job.id, attempt=job.attempt, kind="state", state=job.state, message=message))


def record(session: Session, job: Job, events: list[NewEvent]) -> None:
    """Append what a worker reports, but not all of it: a job that runs for days must not leave millions of rows.

    Only the newest count of each phase in a report is kept, and only if the phase has changed, is complete, or was last
    recorded `PROGRESS_EVERY` ago, and `_AT_ONCE` rows in that time. The first `SAID` messages and the first `LOG_LINES`
    log lines of an attempt are kept. A job's states are recorded by the registry itself. If the namespace has no more
    room in the database, nothing is kept, and the job goes on.
    """
    rows: list[JobEvent] = []
    reported = [event.progress for event in events if event.progress is not None]
    kept = {id(progress) for progress in _worth_keeping(session, job, reported)}
    room = _room_for_lines(session, job) if any(event.kind == "log" for event in events) else 0
    for event in events:
        if event.kind == "progress" and event.progress is not None:
            if id(event.progress) in kept:
                rows.append(_row(job, event))
        elif event.kind == "log" and room > 0:
            rows.append(_row(job, event))
            room -= 1
        elif event.kind == "log" and room == 0:
            said = f"this attempt logged more than {LOG_LINES} lines; the rest are in the log of the worker {job.worker}, at the level DEBUG"
            rows.append(_row(job, NewEvent(kind="log", message=said)))
            room -= 1
    _keep(session, job, rows)


def _row(job: Job, event: NewEvent) -> JobEvent:
    progress = None if event.progress is None else event.progress.model_dump(exclude_none=True)
    return JobEvent(job_id=job.id, attempt=job.attempt, kind=event.kind, progress=progress, message=event.message)


def _keep(session: Session, job: Job, rows: Sequence[JobEvent]) -> None:
    size_bytes = job.events_bytes + sum(record_bytes(row.progress, row.message) for row in rows)
    more_bytes = counted(size_bytes) - counted(job.events_bytes)
    if more_bytes:
        if not has_room_for_records(session, job.namespace, more_bytes):
            return
        charge(session, job.namespace, records=more_bytes)
    session.add_all(rows)
    if rows:
        job.events_bytes = size_bytes


def counted(events_bytes: Any) -> Any:
    """How much of what a job's events take is counted for its namespace; a number, or a column in SQL."""
    return events_bytes - events_bytes % STEP_BYTES


def forget(session: Session, freed: Mapping[str, int]) -> None:
    """Count less for jobs, by id, whose events were removed; `freed` is what these took."""
    for job in session.scalars(select(Job).where(Job.id.in_(freed)).order_by(Job.id)):
        # What there was no room for was not counted.
        left = max(0, job.events_bytes - freed[job.id])
        charge(session, job.namespace, records=counted(left) - counted(job.events_bytes))
        job.events_bytes = left


def _worth_keeping(session: Session, job: Job, reported: Sequence[Progress]) -> list[Progress]:
    """The progress that counts or says something new compared with the last that is stored."""
    if not reported:
        return []
    of_attempt = (JobEvent.job_id == job.id, JobEvent.attempt == job.attempt, JobEvent.kind == "progress")
    newest = select(JobEvent).where(*of_attempt).order_by(JobEvent.seq.desc())
    if (earlier := session.scalars(newest.offset(_AT_ONCE - 1).limit(1)).first()) is not None and _is_recent(earlier):
        return []
    last = session.scalars(newest.limit(1)).first()
    before = None if last is None or last.progress is None else readable(Progress, last.progress)
    kept = list({progress.phase: progress for progress in reported}.values())
    if last is not None and before is not None and _is_recent(last):
        kept = [each for each in kept if each.phase != before.phase or (each.step == each.total != before.step)]
    said = [
        each
        for each, previous in zip(reported, [before, *reported], strict=False)
        if each.message is not None
        and (previous is None or (previous.phase, previous.message) != (each.phase, each.message))
    ]
    if said:
        is_said = JobEvent.progress["message"].as_string().is_not(None)
        room = SAID - (session.scalar(select(func.count()).where(*of_attempt, is_said)) or 0)
        kept += said[: max(0, room)]
    worth = {id(each) for each in kept}
    return [each for each in reported if id(each) in worth][-_AT_ONCE:]


def _is_recent(event: JobEvent) -> bool:
    return abs(utc_now() - event.at) < PROGRESS_EVERY


def _room_for_lines(session: Session, job: Job) -> int:
    """How many more lines of the present attempt can be stored; -1 once it was recorded that there are more."""
    lines = select(JobEvent.seq).where(
        JobEvent.job_id == job.id, JobEvent.attempt == job.attempt, JobEvent.kind == "log"
    )
    return LOG_LINES - (session.scalar(select(func.count()).select_from(lines.limit(LOG_LINES + 1).subquery())) or 0)


def read(
    db: Database, *, job_id: str, after: int, limit: int, who: Principal, last: int | None = None
) -> tuple[list[Event], JobState]:
    """Return events with a `seq` above `after`, and the job's state, which was read before them.

    They are the first `limit` events, or the last `last`; fewer if they are long, but never none if there is one.
    """
    with db.read() as session:
        job = find_job(session, job_id, who)
        rows = _rows(session, job_id, after, most=limit if last is None else last, newest=last is not None)
        found = [readable(Event, fields_of(Event, row)) for row in rows]
        return [event for event in found if event is not None], member_of(JobState, job.state)


def _rows(session: Session, job_id: str, after: int, *, most: int, newest: bool) -> list[JobEvent]:
    """The first events of a job after one of them, or the newest; oldest first."""
    of_job = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.seq > after)
    of_job = of_job.order_by(JobEvent.seq.desc() if newest else JobEvent.seq)
    found: list[JobEvent] = []
    characters = 0
    while len(found) < most and characters < _ENOUGH:
        further = of_job
        if found:
            further = of_job.where(JobEvent.seq < found[-1].seq if newest else JobEvent.seq > found[-1].seq)
        size = min(_PAGE, most - len(found))
        page = session.scalars(further.limit(size)).all()
        found += page
        characters += sum(len(event.message or "") for event in page)
        if len(page) < size:
            break
    return found[::-1] if newest else found
