"""The workers that were heard of, and what the fleet has room for."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from registry.auth.principal import Principal
from registry.db import Database, insert_if_new, utc_now
from registry.jobs.models import Job, Worker
from registry.jobs.needs import SILENT_AFTER, obstacle, workers_at_hand
from sdk.schemas.jobs import JobState, QueueCapacity, WorkerView
from sdk.schemas.work import WorkerInfo

QUEUES = ("gpu", "cpu")
#: How exactly it is known when a busy worker was last heard of.
_NOTED_EVERY = timedelta(seconds=10)
#: A worker of which nothing was heard for so long is not listed any more.
_FORGOTTEN_AFTER = timedelta(days=7)
#: Jobs of a queue that are held against the fleet one by one.
_LOOKED_AT = 1000


class Workers:
    """The service over the table of workers."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def hello(self, worker: WorkerInfo) -> None:
        """Note what a worker says of itself while it has nothing to do."""
        with self._db.write() as session:
            remember(session, worker)

    def leave(self, name: str) -> None:
        """Note that a worker takes no more jobs."""
        with self._db.write() as session:
            session.execute(update(Worker).where(Worker.name == name).values(draining=True, seen_at=utc_now()))

    def capacity(self) -> list[QueueCapacity]:
        """Each queue as it is now: numbers only, of all namespaces."""
        with self._db.read() as session:
            workers = workers_at_hand(session)
            counts = {
                (state, queue): number
                for state, queue, number in session.execute(
                    select(Job.state, Job.queue, func.count())
                    .where(Job.state.in_([JobState.QUEUED, JobState.RUNNING]))
                    .group_by(Job.state, Job.queue)
                )
            }
            busy = busy_workers(session)
            found = []
            for queue in QUEUES:
                listening = [worker for worker in workers if queue in worker.queues]
                waiting = select(Job).where(Job.state == JobState.QUEUED, Job.queue == queue)
                oldest = session.scalar(waiting.with_only_columns(func.min(Job.created_at)))
                looked_at = session.scalars(waiting.order_by(Job.priority.desc(), Job.created_at).limit(_LOOKED_AT))
                found.append(
                    QueueCapacity(
                        queue=queue,
                        queued=counts.get((JobState.QUEUED, queue), 0),
                        running=counts.get((JobState.RUNNING, queue), 0),
                        workers=len(listening),
                        idle=sum(worker.name not in busy for worker in listening),
                        oldest_s=None if oldest is None else max(0.0, (utc_now() - oldest).total_seconds()),
                        unfit=sum(obstacle(job, workers) is not None for job in looked_at),
                    )
                )
            return found

    def list(self, *, who: Principal) -> list[WorkerView]:
        """The workers of the last week, by name. A job that the caller may not see is not named."""
        with self._db.read() as session:
            workers = session.scalars(
                select(Worker).where(Worker.seen_at > utc_now() - _FORGOTTEN_AFTER).order_by(Worker.name).limit(1000)
            ).all()
            running = session.execute(
                select(Job.worker, Job.id, Job.namespace).where(Job.state == JobState.RUNNING)
            ).all()
        jobs = {row.worker: row for row in running}
        found = []
        for worker in workers:
            job = jobs.get(worker.name)
            visible = job is not None and who.may("read", job.namespace)
            found.append(
                WorkerView(
                    name=worker.name,
                    device=worker.device,
                    memory_bytes=worker.memory_bytes,
                    free_memory_bytes=worker.free_memory_bytes,
                    cached_bases=worker.cached_bases,
                    queues=worker.queues,
                    version=worker.version,
                    state=_state_of(worker, busy=job is not None),
                    job=job.id if job is not None and visible else None,
                    seen_at=worker.seen_at,
                )
            )
        return found


def remember(session: Session, worker: WorkerInfo) -> None:
    """Write down a worker as it describes itself; it takes jobs."""
    values = {
        "device": worker.device,
        "memory_bytes": worker.memory_bytes,
        "free_memory_bytes": worker.free_memory_bytes,
        "cached_bases": worker.cached_bases,
        "shared_paths": worker.shared_paths,
        "queues": list(worker.queues),
        "draining": False,
        "version": worker.version,
        "seen_at": utc_now(),
    }
    if not insert_if_new(session, Worker, name=worker.name, **values):
        session.execute(update(Worker).where(Worker.name == worker.name).values(**values))


def seen(session: Session, name: str | None) -> None:
    """Note that a worker was heard of, not oftener than anybody looks."""
    long_ago = (Worker.name == name, Worker.seen_at < utc_now() - _NOTED_EVERY)
    session.execute(update(Worker).where(*long_ago).values(seen_at=utc_now()))


def busy_workers(session: Session) -> set[str]:
    """The names of the workers that hold a job."""
    running: Iterable[str | None] = session.scalars(select(Job.worker).where(Job.state == JobState.RUNNING))
    return {name for name in running if name is not None}


def _state_of(worker: Worker, *, busy: bool) -> str:
    if worker.seen_at < utc_now() - SILENT_AFTER:
        return "silent"
    if worker.draining:
        return "draining"
    return "busy" if busy else "idle"
