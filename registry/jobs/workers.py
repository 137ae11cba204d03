"""The known workers, and how busy they are.

A worker is a token and a name: a caller can only act for workers of its own token.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.orm import Session, defer

from registry.db.database import Database
from registry.db.statements import insert_if_new
from registry.db.stored_json import fields_of, readable
from registry.db.types import db_now
from registry.errors import QuotaExceeded
from registry.jobs.available_workers import (
    FORGOTTEN_AFTER,
    SILENT_AFTER,
    available_workers,
    running_on,
    scorers_among,
    seen_by,
    spaces_of,
    trackers_among,
)
from registry.jobs.models import Job, Worker
from registry.jobs.needs import of_tracker
from registry.jobs.peaks import learnt_forecasts
from registry.jobs.requirements import obstacle
from registry.principal import Principal
from sdk.schemas.jobs import JobState
from sdk.schemas.planning import DeviceForecasts
from sdk.schemas.work import QueueCapacity, WorkerInfo, WorkerView

QUEUES = ("gpu", "cpu")
#: How exactly it is known when a busy worker was last heard from.
_NOTED_EVERY = timedelta(seconds=10)
#: How many workers of one token are remembered at once.
MOST_WORKERS = 1000
#: How many jobs of a queue are checked one by one for a worker that they fit.
_LOOKED_AT = 1000


class Workers:
    """The service over the table of workers."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def hello(self, worker: WorkerInfo, *, who: Principal) -> None:
        """Record what one of the caller's workers says about itself while it has nothing to do. Raises
        QuotaExceeded.
        """
        with self._db.write() as session:
            remember(session, worker, who)

    def leave(self, name: str, *, who: Principal) -> None:
        """Record that one of the caller's workers takes no more jobs."""
        with self._db.write() as session:
            session.execute(update(Worker).where(*_one(name, who)).values(draining=True, seen_at=db_now(session)))

    def forget(self) -> int:
        """Forget the workers that were not heard from for a week; return how many."""
        with self._db.write() as session:
            gone = delete(Worker).where(Worker.seen_at < db_now(session) - FORGOTTEN_AFTER).returning(Worker.name)
            return len(session.execute(gone).all())

    def capacity(self, *, who: Principal) -> list[QueueCapacity]:
        """Each queue as it is now: numbers only, of the jobs of all namespaces and of the workers that the caller may see."""
        with self._db.read() as session:
            now = db_now(session)
            workers, visible = available_workers(session), available_workers(session, who)
            counts = {
                (state, queue): number
                for state, queue, number in session.execute(
                    select(Job.state, Job.queue, func.count())
                    .where(Job.state.in_([JobState.QUEUED, JobState.RUNNING]))
                    .group_by(Job.state, Job.queue)
                )
            }
            busy = running_on(session)
            found = []
            for queue in QUEUES:
                listening = [worker for worker in visible if queue in worker.queues]
                waiting = select(Job).where(Job.state == JobState.QUEUED, Job.queue == queue)
                oldest = session.scalar(waiting.with_only_columns(func.min(Job.created_at)))
                looked_at = session.scalars(waiting.order_by(Job.priority.desc(), Job.created_at).limit(_LOOKED_AT))
                found.append(
                    QueueCapacity(
                        queue=queue,
                        queued=counts.get((JobState.QUEUED, queue), 0),
                        running=counts.get((JobState.RUNNING, queue), 0),
                        workers=len(listening),
                        idle=sum((worker.owner, worker.name) not in busy for worker in listening),
                        oldest_s=None if oldest is None else max(0.0, (now - oldest).total_seconds()),
                        unfit=sum(obstacle(job, workers) is not None for job in looked_at),
                    )
                )
            return found

    def devices(self, *, who: Principal) -> list[DeviceForecasts]:
        """What past trainings that the caller may read say about forecasts, by device."""
        with self._db.read() as session:
            return learnt_forecasts(session, who)

    def list(self, *, who: Principal) -> list[WorkerView]:
        """The workers of the last week that work where the caller reads, by name.

        What they hold for other namespaces is not shown: neither a job there, nor which bases are cached.
        """
        with self._db.read() as session:
            now = db_now(session)
            lately = (Worker.seen_at > now - FORGOTTEN_AFTER, seen_by(who))
            query = select(Worker).options(defer(Worker.shared_paths)).where(*lately)
            workers = session.scalars(query.order_by(Worker.name, Worker.owner).limit(1000)).all()
            spaces = spaces_of(session, {worker.owner for worker in workers})
            running = running_on(session)
        found, reads = [], who.namespaces()
        for worker in workers:
            job, namespace = running.get((worker.owner, worker.name), (None, ""))
            elsewhere = reads is not None and not spaces[worker.owner] <= set(reads)
            shown = fields_of(
                WorkerView,
                worker,
                token=worker.owner.partition("token:")[2] or None,
                cached_bases=[] if elsewhere else worker.cached_bases,
                scorers=None if elsewhere else scorers_among(worker.knows),
                trackers=None if elsewhere else sorted(trackers_among(worker.knows)),
                state=_state_of(worker, now, busy=job is not None),
                job=job if job is not None and who.may("read", namespace) else None,
            )
            found.append(readable(WorkerView, shown))
        return [worker for worker in found if worker is not None]


def remember(session: Session, worker: WorkerInfo, who: Principal) -> None:
    """Record one of the caller's workers as it describes itself; it takes jobs. Raises QuotaExceeded."""
    scorers = [None] if worker.scorers is None else [scorer.model_dump() for scorer in worker.scorers]
    values = {
        "device": worker.device,
        "memory_bytes": worker.memory_bytes,
        "free_memory_bytes": worker.free_memory_bytes,
        "cached_bases": worker.cached_bases,
        "shared_paths": worker.shared_paths,
        "queues": list(worker.queues),
        "draining": False,
        "version": worker.version,
        "knows": [*worker.fields, *scorers, *map(of_tracker, worker.trackers)],
        "seen_at": db_now(session),
    }
    if insert_if_new(session, Worker, owner=who.owner, name=worker.name, **values):
        _keep_within(session, who, MOST_WORKERS)
    else:
        session.execute(update(Worker).where(*_one(worker.name, who)).values(**values))


def seen(session: Session, name: str | None, who: Principal) -> None:
    """Record that one of the caller's workers was heard from, but no more often than anybody looks."""
    now = db_now(session)
    long_ago = Worker.seen_at < now - _NOTED_EVERY
    session.execute(update(Worker).where(*_one(name, who), long_ago).values(seen_at=now))


def _one(name: str | None, who: Principal) -> tuple[ColumnElement[bool], ...]:
    """The condition that a worker is the caller's of this name."""
    return Worker.owner == who.owner, Worker.name == name


def _keep_within(session: Session, who: Principal, most: int) -> None:
    """Forget those of the caller's workers beyond `most` that were silent for longest. Raises QuotaExceeded."""
    ours = Worker.owner == who.owner
    over = (session.scalar(select(func.count()).select_from(Worker).where(ours)) or 0) - most
    if over <= 0:
        return
    silent = select(Worker.name).where(ours, Worker.seen_at < db_now(session) - SILENT_AFTER).order_by(Worker.seen_at)
    names = session.scalars(silent.limit(over)).all()
    if len(names) < over:
        raise QuotaExceeded(
            f"this token already has {most} workers; give the others a token of their own: "
            "adapterctl token create NAME --role worker"
        )
    session.execute(delete(Worker).where(ours, Worker.name.in_(names)))


def _state_of(worker: Worker, now: datetime, *, busy: bool) -> str:
    if worker.seen_at < now - SILENT_AFTER:
        return "silent"
    if worker.draining:
        return "draining"
    return "busy" if busy else "idle"
