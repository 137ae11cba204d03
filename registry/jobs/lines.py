"""Jobs as lines of a list: what is shown of each, read from its own columns, however long its request and its result are."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Select, func, select, union_all
from sqlalchemy.orm import Session, load_only

from registry.db.database import Database
from registry.db.paging import in_order, read_cursor, write_cursor
from registry.db.stored_json import readable
from registry.jobs.kinds.known import KINDS
from registry.jobs.models import Job, JobEvent
from registry.jobs.present import standing_in_queue
from registry.principal import Principal
from sdk.formats.refs import MemberRef
from sdk.schemas.events import Progress
from sdk.schemas.jobs import JobState

#: Beside these, only what the result's ref is.
_COLUMNS = (
    Job.id, Job.namespace, Job.kind, Job.state, Job.subject, Job.queue, Job.priority, Job.needs_device, Job.needs_memory_bytes,
    Job.least_card_bytes, Job.least_machine_bytes, Job.needs, Job.not_before_s, Job.failures, Job.retry_of, Job.sweep, Job.sweep_number,
    Job.attempt, Job.cancel_requested, Job.progress, Job.reason, Job.created_by, Job.created_at, Job.started_at, Job.finished_at,
)  # fmt: skip
#: Of how many of the newest waiting jobs is looked again why they wait.
_WAITING = 200
#: The newest jobs of so many namespaces are looked up one namespace at a time.
_FEW_SPACES = 50


@dataclass(frozen=True)
class JobLine:
    """What a list shows of a job."""

    id: str
    namespace: str
    kind: str
    state: str
    subject: str
    #: The sweep that it belongs to, and which member of it it trains; `member` is None for one that scores a member.
    sweep: str | None
    member: str | None
    attempt: int
    failures: int
    retry_of: str | None
    #: Whether somebody has asked a running job to stop.
    stops: bool
    progress: Progress | None
    #: Why it failed, in one word.
    reason: str | None
    #: The ref of what it made.
    made: str | None
    #: How many jobs go before a waiting one, and why it waits.
    ahead: int | None
    waits: str | None
    created_by: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def place(self) -> tuple[datetime, str]:
        """Where it is in the list, newest first."""
        return self.created_at, self.id


@dataclass(frozen=True)
class JobFilter:
    """Which jobs of those that somebody may see are listed; None: all of them.

    >>> JobFilter(state="failed").state, JobFilter() == JobFilter(state=None)
    ('failed', True)
    """

    state: str | None = None
    kind: str | None = None
    #: The adapter that is trained, or another ref that a job is about.
    subject: str | None = None
    sweep: str | None = None

    def takes(self, line: JobLine) -> bool:
        """Whether a job is listed."""
        given = (
            (self.state, line.state),
            (self.kind, line.kind),
            (self.subject, line.subject),
            (self.sweep, line.sweep),
        )
        return all(wanted is None or wanted == has for wanted, has in given)

    def within(self, query: Select[Job]) -> Select[Job]:
        """The same as a condition."""
        if self.state is not None:
            query = query.where(Job.state == self.state)
        if self.kind is not None:
            query = query.where(Job.kind == self.kind)
        elif self.subject is not None:
            # The index of subjects begins with the kind.
            query = query.where(Job.kind.in_(sorted(KINDS)))
        if self.subject is not None:
            query = query.where(Job.subject == self.subject)
        if self.sweep is not None:
            query = query.where(Job.sweep == self.sweep)
        return query


class PageOfLines(NamedTuple):
    """One page of a list of jobs."""

    items: list[JobLine]
    #: The cursor of the next page; None at the end.
    next: str | None
    #: The newest event of any job when the page was read: what happens later has a greater number, but for what is being
    #: committed at that moment.
    newest: int


class JobLines:
    """The service over the table of jobs, for lists that are looked at while they change."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def page(self, *, wanted: JobFilter, who: Principal, cursor: str | None = None, limit: int = 50) -> PageOfLines:
        """Return the jobs that the caller may see, newest first. Raises Invalid for a cursor of another list."""
        keys = (Job.created_at, Job.id)
        seen = None if cursor is None else read_cursor(cursor, [datetime, str])
        listed = in_order(wanted.within(select(Job)), keys, seen, newest_first=True).limit(limit + 1)
        spaces = who.spaces()
        if spaces is not None and len(spaces) <= _FEW_SPACES:
            # Each namespace's newest are a range of an index. With a condition for all, PostgreSQL may go through the newest jobs of
            # everybody, a million of them, to the few of a namespace that has had none for long.
            ids = [listed.with_only_columns(Job.id).where(Job.namespace == space).subquery() for space in spaces]
            of_these = Job.id.in_(union_all(*(select(each.c.id) for each in ids)))
            listed = in_order(select(Job).where(of_these), keys, None, newest_first=True).limit(limit + 1)
        else:
            listed = listed.where(who.within(Job.namespace))
        with self._db.read() as session:
            newest = session.scalar(select(func.max(JobEvent.seq))) or 0
            found = _lines(session, listed)
        following = write_cursor(found[limit - 1].place) if len(found) > limit else None
        return PageOfLines(found[:limit], following, newest)

    def newest(self) -> int:
        """Return the newest event of any job."""
        with self._db.read() as session:
            return session.scalar(select(func.max(JobEvent.seq))) or 0

    def of(self, ids: Collection[str]) -> list[JobLine]:
        """Return these jobs, of all namespaces: who shows them asks for each reader's rights. What is gone is left out."""
        with self._db.read() as session:
            return _lines(session, select(Job).where(Job.id.in_(ids)))

    def waiting(self) -> list[JobLine]:
        """Return the newest waiting jobs, of all namespaces."""
        query = select(Job).where(Job.state == JobState.QUEUED)
        with self._db.read() as session:
            return _lines(session, query.order_by(Job.created_at.desc()).limit(_WAITING))

    def events_after(self, seq: int, *, most: int) -> Sequence[tuple[int, str]]:
        """Return number and job of the events after one, in their order."""
        query = select(JobEvent.seq, JobEvent.job_id).where(JobEvent.seq > seq).order_by(JobEvent.seq).limit(most)
        with self._db.read() as session:
            return [(row.seq, row.job_id) for row in session.execute(query)]


def _lines(session: Session, query: Select[Job]) -> list[JobLine]:
    columns = query.options(load_only(*_COLUMNS, raiseload=True)).add_columns(
        Job.result["ref"].as_string(), Job.result["version"].as_string()
    )
    rows = session.execute(columns).all()
    standing = standing_in_queue(session, [row[0] for row in rows])
    return [_line(job, version or ref, *standing.get(job.id, (None, None))) for job, ref, version in rows]


def _line(job: Job, made: str | None, ahead: int | None, waits: str | None) -> JobLine:
    member = None
    if job.sweep is not None and job.sweep_number is not None:
        member = str(MemberRef(job.sweep, job.sweep_number))
    return JobLine(
        id=job.id,
        namespace=job.namespace,
        kind=job.kind,
        state=job.state,
        subject=job.subject,
        sweep=job.sweep,
        member=member,
        attempt=job.attempt or 0,
        failures=job.failures or 0,
        retry_of=job.retry_of,
        stops=job.state == JobState.RUNNING and bool(job.cancel_requested),
        # Another release may have written it.
        progress=None if job.progress is None or job.state != JobState.RUNNING else readable(Progress, job.progress),
        reason=job.reason,
        made=made if job.state == JobState.SUCCEEDED else None,
        ahead=ahead,
        waits=waits,
        created_by=job.created_by,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
    )
