"""From a job's row to its API form."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select, tuple_
from sqlalchemy.orm import Session

from registry.db.stored_json import readable, table, view_of
from registry.db.types import db_epoch_s
from registry.jobs.advice import advice_of
from registry.jobs.available_workers import available_workers, running_on
from registry.jobs.fair_share import places
from registry.jobs.models import Attempt, Checkpoint, Job
from registry.jobs.requirements import why_waiting
from registry.jobs.tracking import runs_of
from sdk.schemas.events import Progress
from sdk.schemas.jobs import AttemptView, JobState, JobView, Needs
from sdk.schemas.planning import JobForecast
from sdk.schemas.wire import member_of

#: How many jobs of a queue are shown with their place; those behind them wait long in any case.
_PLACES = 1000
#: How many attempts at a job are shown; workers may give it back without end.
_MOST_ATTEMPTS = 1000


def present(job: Job) -> JobView:
    """Return a job as sent over the API, without what depends on the queue and the workers."""
    return view_of(
        JobView,
        job,
        state=member_of(JobState, job.state),
        attempt=job.attempt or 0,
        cancel_requested=bool(job.cancel_requested),
        # Another release may have written these.
        progress=None if job.progress is None else readable(Progress, job.progress),
        result=job.result if isinstance(job.result, dict) else None,
        request=table(job.request),
        needs=readable(Needs, {"device": job.needs_device, "memory_bytes": job.needs_memory_bytes}) or Needs(),
        failures=job.failures or 0,
        runs=dict(runs_of(job)),
        advice=advice_of(job),
    )


def forecast_of(job: Job) -> JobForecast | None:
    """Return what a job was forecast to take; lists leave it out."""
    return None if job.forecast is None else readable(JobForecast, job.forecast)


def present_in_queue(session: Session, jobs: Sequence[Job]) -> list[JobView]:
    """Return jobs as sent over the API, with their checkpoints, their places in the queue, and why they wait."""
    of_these = Checkpoint.job_id.in_([job.id for job in jobs])
    newest = select(Checkpoint.job_id, func.max(Checkpoint.seq)).where(of_these).group_by(Checkpoint.job_id)
    recorded = select(Checkpoint.job_id, Checkpoint.step).where(
        of_these, tuple_(Checkpoint.job_id, Checkpoint.seq).in_(newest)
    )
    steps: dict[str, int] = dict(session.execute(recorded).all())
    standing = standing_in_queue(session, jobs)
    found = []
    for job in jobs:
        ahead, waits = standing.get(job.id, (None, None))
        update = {"checkpoint_step": steps.get(job.id), "ahead": ahead, "waits": waits}
        found.append(present(job).model_copy(update=update))
    return found


def standing_in_queue(session: Session, jobs: Sequence[Job]) -> dict[str, tuple[int | None, str]]:
    """Return of each job that waits how many go before it, if few enough do, and why it waits."""
    queued = [job for job in jobs if job.state == JobState.QUEUED]
    if not queued:
        return {}
    ahead: dict[str, int] = {}
    for queue in {job.queue for job in queued}:
        namespaces = {job.namespace for job in queued if job.queue == queue}
        ahead |= places(session, queue, namespaces, most=_PLACES)
    workers, busy = available_workers(session), running_on(session)
    now_s = session.scalar(select(db_epoch_s())) or 0.0
    found = {}
    for job in queued:
        place = ahead.get(job.id)
        found[job.id] = (place, why_waiting(job, workers, busy=busy, ahead=place, now_s=now_s))
    return found


def present_attempts(session: Session, job_id: str) -> list[AttemptView]:
    """Return the last attempts at a job as sent over the API, oldest first."""
    last = select(Attempt).where(Attempt.job_id == job_id).order_by(Attempt.attempt.desc()).limit(_MOST_ATTEMPTS)
    return [view_of(AttemptView, row) for row in session.scalars(last).all()[::-1]]
