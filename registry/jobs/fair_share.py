"""Fair shares: the order in which waiting jobs of all namespaces are given out.

Among the jobs that fit a worker, those of the highest class go first: urgent ones, then normal ones, then background
ones. Within a class, the namespace with the fewest running jobs in the queue goes first; among equals, the one that was
served longest ago. Within a namespace, the job with the highest priority goes first.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, case, func, literal, or_, select, tuple_
from sqlalchemy.orm import Session

from registry.db.statements import upsert
from registry.db.types import UtcDateTime, db_epoch_s
from registry.errors import Forbidden
from registry.jobs.models import Job, Turn
from registry.jobs.requirements import fits
from registry.principal import EVERYWHERE, Principal
from sdk.schemas.jobs import JobState
from sdk.schemas.work import ClaimRequest

#: Jobs above it are urgent: they go before the jobs of all namespaces. Only an admin of all namespaces may give such
#: priorities.
URGENT_ABOVE = 50
#: The highest priority that a writer may give. A promoter or an admin of the namespace may go up to `URGENT_ABOVE`.
WRITER_MOST = 10
_MOST = 100
#: No job was created before or after these.
_FIRST, _LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)

#: A namespace with at most this many waiting jobs is read together with others.
_FEW = 100
#: Among how many of a namespace's oldest jobs to look for one whose base is cached.
_LOOKED_AT = 200


def require_priority(priority: int, namespace: str, who: Principal) -> None:
    """Raise Forbidden for a priority that the caller may not give in a namespace."""
    most = most_priority(namespace, who)
    if priority > most:
        raise Forbidden(
            f"{most} is the highest priority that this token may give in the namespace {namespace!r}, but {priority} was asked "
            f"for; submit it with a priority of {most} or less, or ask {_WHO_MAY[most]}",
            param="priority",
        )


def most_priority(namespace: str, who: Principal) -> int:
    """Return the highest priority that the caller may give in a namespace."""
    if who.may("admin", EVERYWHERE):
        return _MOST
    return URGENT_ABOVE if who.may("promote", namespace) else WRITER_MOST


_WHO_MAY = {WRITER_MOST: "a promoter or an admin of it", URGENT_ABOVE: "an admin of all namespaces"}


@dataclass(frozen=True)
class Next:
    """A namespace with a job that fits, and the priority of the first one."""

    queue: str
    namespace: str
    priority: int
    running: int
    served_at_s: float

    @property
    def order(self) -> tuple[int, int, float, str]:
        """What it is sorted by."""
        return -class_of(self.priority), self.running, self.served_at_s, self.namespace


def class_of(priority: int) -> int:
    """The class of a priority, the highest first to be given out: 2 urgent, 1 normal, 0 background."""
    return 2 if priority > URGENT_ABOVE else 0 if priority < 0 else 1


def due() -> ColumnElement[bool]:
    """The condition that a queued job isn't waiting for its next try."""
    return or_(Job.not_before_s.is_(None), Job.not_before_s <= db_epoch_s())


def find_next(
    session: Session, claim: ClaimRequest, who: Principal, *, passed_over: Collection[str] = ()
) -> str | None:
    """Lock the job that a worker should get and return its id, or None. Workers that ask at once get different ones.

    The job is in none of the namespaces that are to be skipped.
    """
    fitting = (Job.state == JobState.QUEUED, due(), *fits(claim.worker))
    found = [place for queue in claim.worker.queues for place in _next_of_each(session, queue, fitting, who)]
    found = [place for place in found if place.namespace not in passed_over]
    found.sort(key=lambda place: place.order)
    # If all jobs of a priority are being given to others, the lower ones are looked at, first those of the same class.
    for in_class in (True, False):
        for place in found:
            priority: int | None = place.priority
            while priority is not None and (not in_class or class_of(priority) == class_of(place.priority)):
                job_id = _first(session, place, priority, fitting, claim)
                if job_id is not None:
                    return job_id
                priority = session.scalar(_highest(place.queue, place.namespace, fitting, below=priority))
    return None


def note_served(session: Session, job: Job) -> None:
    """Record that the namespace of a job was served now."""
    upsert(session, Turn, {"queue": job.queue, "namespace": job.namespace}, {"served_at_s": db_epoch_s()})


def _next_of_each(session: Session, queue: str, fitting: Sequence[ColumnElement[bool]], who: Principal) -> list[Next]:
    """The namespaces with a job that fits. Each is found by the index, however many jobs wait in it."""
    queued = (Job.state == JobState.QUEUED, Job.queue == queue)
    spaces = select(func.min(Job.namespace).label("namespace")).where(*queued).cte("spaces", recursive=True)
    after = select(func.min(Job.namespace)).where(*queued, Job.namespace > spaces.c.namespace).scalar_subquery()
    spaces = spaces.union_all(select(after).where(spaces.c.namespace.is_not(None)))

    highest = _highest(queue, spaces.c.namespace, fitting)
    firsts = (
        select(spaces.c.namespace, highest.scalar_subquery().label("priority"))
        .where(spaces.c.namespace.is_not(None), who.within(spaces.c.namespace, "work"))
        .cte("firsts")
    )
    # Otherwise they may be looked up again for each column that is read.
    firsts = firsts.prefix_with("MATERIALIZED")

    of_first = (Job.queue == queue, Job.namespace == firsts.c.namespace)
    running = select(func.count()).select_from(Job).where(Job.state == JobState.RUNNING, *of_first)
    served = select(Turn.served_at_s).where(Turn.queue == queue, Turn.namespace == firsts.c.namespace)
    query = select(
        firsts.c.namespace,
        firsts.c.priority,
        running.scalar_subquery(),
        func.coalesce(served.scalar_subquery(), 0.0),
    ).where(firsts.c.priority.is_not(None))
    return [Next(queue, *row) for row in session.execute(query)]


def _first(
    session: Session, place: Next, priority: int, fitting: Sequence[ColumnElement[bool]], claim: ClaimRequest
) -> str | None:
    """Lock a job of a namespace and priority: one whose base is cached, the hinted one, or the oldest; None if others
    have locked all.
    """
    oldest = _oldest((Job.id, Job.base_fingerprint), place.queue, place.namespace, priority, fitting)
    found = session.execute(oldest.limit(_LOOKED_AT)).all()
    cached = set(claim.worker.cached_bases)
    for job in sorted(found, key=lambda job: (job.base_fingerprint not in cached, job.id != claim.hint)):
        # A job that is being given to another worker is skipped.
        locked = select(Job.state).where(Job.id == job.id).with_for_update(skip_locked=True)
        if session.scalar(locked) == JobState.QUEUED:
            return str(job.id)
    return None


# Each namespace's jobs are a range of one index. The conditions and orders below are written as ranges over all of its
# columns, because with equalities PostgreSQL may use an index that only has the order, and go through everybody's jobs.


def _oldest(
    columns: tuple[Any, ...], queue: str, namespace: Any, priority: Any, fitting: Sequence[ColumnElement[bool]]
) -> Select[Any]:
    """The fitting jobs of a namespace with a given priority, oldest first."""
    key = (Job.queue, Job.namespace, Job.priority, Job.created_at)
    within = (
        tuple_(*key) >= tuple_(queue, namespace, priority, literal(_FIRST, UtcDateTime())),
        tuple_(*key) <= tuple_(queue, namespace, priority, literal(_LAST, UtcDateTime())),
    )
    return select(*columns).where(*fitting, *within).order_by(*key)


def _highest(
    queue: str, namespace: Any, fitting: Sequence[ColumnElement[bool]], *, below: int = _MOST + 1
) -> Select[int]:
    """The highest priority that a fitting job of a namespace has, below another one."""
    key = (Job.queue, Job.namespace, Job.priority)
    within = (tuple_(*key) >= tuple_(queue, namespace, -_MOST), tuple_(*key) < tuple_(queue, namespace, below))
    query = select(Job.priority).where(*fitting, *within)
    return query.order_by(*(column.desc() for column in key)).limit(1)


def places(session: Session, queue: str, namespaces: Collection[str], *, most: int) -> dict[str, int]:
    """How many jobs of a queue are given out before each waiting one of some namespaces, up to `most`.

    This is the order in which they would be given out now if no running job ended and every worker could take any of
    them.
    """
    queued = (Job.state == JobState.QUEUED, Job.queue == queue)
    kind = case((Job.priority > URGENT_ABOVE, 2), (Job.priority < 0, 0), else_=1)
    waiting: dict[int, dict[str, int]] = {2: {}, 1: {}, 0: {}}
    counts = select(Job.namespace, kind, func.count()).where(*queued)
    for namespace, in_class, count in session.execute(counts.group_by(Job.namespace, kind)):
        waiting[in_class][namespace] = count
    busy = select(Job.namespace, func.count()).where(Job.state == JobState.RUNNING, Job.queue == queue)
    running = Counter(dict(session.execute(busy.group_by(Job.namespace)).all()))
    served = dict(session.execute(select(Turn.namespace, Turn.served_at_s).where(Turn.queue == queue)).all())

    order: list[str] = []
    for in_class in (2, 1, 0):
        left = Counter(waiting[in_class])
        heap = [(running[name], served.get(name, 0.0), name) for name in left]
        heapq.heapify(heap)
        while heap and len(order) < most:
            _, _, name = heapq.heappop(heap)
            # As `note_served` does, at a moment after all known ones.
            running[name] += 1
            served[name] = float(10**12 + len(order))
            order.append(name)
            left[name] -= 1
            if left[name]:
                heapq.heappush(heap, (running[name], served[name], name))
    wanted: dict[str, list[int]] = {name: [] for name in namespaces}
    for place, name in enumerate(order):
        if name in wanted:
            wanted[name].append(place)
    few = [name for name in wanted if sum(of_class.get(name, 0) for of_class in waiting.values()) <= _FEW]
    ordered = {name: _in_order(session, queue, name, len(wanted[name])) for name in wanted if name not in few}
    of_few = select(Job.namespace, Job.id).where(*queued, Job.namespace.in_(few))
    for name, job_id in session.execute(of_few.order_by(Job.priority.desc(), Job.created_at, Job.id)):
        ordered.setdefault(name, []).append(job_id)
    return {job_id: place for name, jobs in ordered.items() for job_id, place in zip(jobs, wanted[name], strict=False)}


def _in_order(session: Session, queue: str, namespace: str, count: int) -> list[str]:
    """The ids of a namespace's first waiting jobs, in the order in which they are given out."""
    queued = (Job.state == JobState.QUEUED,)
    found: list[str] = []
    priority = session.scalar(_highest(queue, namespace, queued))
    while priority is not None and len(found) < count:
        found += session.scalars(_oldest((Job.id,), queue, namespace, priority, queued).limit(count - len(found)))
        priority = session.scalar(_highest(queue, namespace, queued, below=priority))
    return found
