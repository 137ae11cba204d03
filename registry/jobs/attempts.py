"""How an attempt begins and ends, and how long it may run. A worker that no longer holds the job can't change anything.

An attempt is held by its number and the token that claimed it: each change first locks the job's row, and checks that
the job still runs as that attempt. Others who may work in the namespace can't act for it, and a worker whose token was
replaced has lost its attempt, like one that fell silent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, exists, func, or_, select, true
from sqlalchemy.orm import Session

from registry.db.counters import count, count_duration
from registry.db.types import db_epoch_s, db_now, utc_now
from registry.errors import Conflict, Invalid, StaleAttempt
from registry.jobs import events
from registry.jobs.lifecycle import move
from registry.jobs.models import Attempt, Job
from registry.principal import SYSTEM, Principal
from registry.usage.charging import charge, record_bytes
from sdk.schemas.failures import FailureReason, is_known, retry_policy
from sdk.schemas.jobs import JobState

#: A worker ends its attempt by itself. If it is still held this long after its time, in seconds, it is ended here: by
#: then its result has been sent, or never will be.
OVERTIME_S = 3600.0


@dataclass(frozen=True)
class TimeLimits:
    """The limits of a registry, in seconds."""

    default_s: float = 86_400.0
    most_s: float = 604_800.0

    def of_submission(self, asked_s: float | None) -> float:
        """Return how long an attempt may run. Raises Invalid for more than is allowed."""
        if asked_s is None:
            return min(self.default_s, self.most_s)
        if asked_s > self.most_s:
            raise Invalid(
                f"a timeout of {asked_s:g} s is longer than the {self.most_s:g} s that this registry allows an attempt; submit it "
                f"with a timeout of {self.most_s:g} s or less; a training can continue from its last checkpoint with: adapterctl jobs retry",
                param="timeout_s",
            )
        return asked_s

    def of_job(self, timeout_s: float | None) -> float:
        """Return how long an attempt at a stored job may run; the job may be older than the limits."""
        return min(self.default_s if timeout_s is None else timeout_s, self.most_s)


#: Ends of attempts that count against the job.
_COUNTED = ("failed", "lost")


def held(job_id: str, attempt: int, who: Principal) -> tuple[ColumnElement[bool], ...]:
    """The condition that a job runs as this attempt, which the caller has claimed."""
    return Job.id == job_id, Job.state == JobState.RUNNING, Job.attempt == attempt, claimed_by(who)


def claimed_by(who: Principal) -> ColumnElement[bool]:
    """The condition that the last attempt of a job is the caller's; the registry itself may act for any."""
    if who == SYSTEM:
        return true()
    own = exists().where(Attempt.job_id == Job.id, Attempt.attempt == Job.attempt, Attempt.owner == who.owner)
    return own.correlate(Job)


def overdue() -> ColumnElement[bool]:
    """The condition that the last attempt of a job is still held after its deadline."""
    last = exists().where(Attempt.job_id == Job.id, Attempt.attempt == Job.attempt, Attempt.deadline_s < db_epoch_s())
    return last.correlate(Job)


def silent() -> ColumnElement[bool]:
    """The condition that the worker has not been heard from for as long as the job's lease."""
    return Job.lease_until_s < db_epoch_s()


def lapsed() -> ColumnElement[bool]:
    """The condition that a job is running whose worker fell silent or overran its time."""
    return and_(Job.state == JobState.RUNNING, or_(silent(), overdue()))


def stale(job_id: str, attempt: int) -> StaleAttempt:
    """The error for a worker that is too late, or that does not own the attempt."""
    return StaleAttempt(f"attempt {attempt} no longer holds job {job_id} with this token; this worker must drop it")


def hold(session: Session, job_id: str, attempt: int, who: Principal) -> Job:
    """Lock and return a job that runs as this attempt of the caller's. Raises StaleAttempt."""
    query = select(Job).where(*held(job_id, attempt, who)).with_for_update()
    job = session.scalars(query.execution_options(populate_existing=True)).first()
    if job is None:
        raise stale(job_id, attempt)
    return job


def begin(session: Session, job: Job, worker: str, who: Principal, *, within_s: float) -> None:
    """Record that a worker has claimed a job, and when its attempt ends whatever it reports."""
    said = {"worker": worker, "owner": who.owner, "deadline_s": db_epoch_s() + within_s}
    session.add(Attempt(job_id=job.id, attempt=job.attempt, state="running", **said))
    # One that resumes says again what was seen.
    job.advice = None
    count(session, "attempts", kind=job.kind)
    events.record_state(session, job, f"attempt {job.attempt} on {worker}")


def succeed(session: Session, job_id: str, attempt: int, result: dict[str, Any], *, who: Principal) -> None:
    """Make a job succeed. Raises StaleAttempt, or Conflict if it was cancelled; both roll back the caller's changes. The
    commit may raise QuotaExceeded.

    This is the point after which a job can't be cancelled: both lock the job's row, so one of them comes first.
    """
    job = hold(session, job_id, attempt, who)
    require_wanted(job)
    job.result, job.result_bytes = result, record_bytes(result)
    charge(session, job.namespace, records=job.result_bytes)
    _end(session, job, JobState.SUCCEEDED)


def require_wanted(job: Job) -> None:
    """Raise Conflict if somebody has cancelled a job that still runs: nothing of its result may be kept."""
    if job.cancel_requested:
        raise Conflict(f"job {job.id} was cancelled, so its result is not kept; this worker must drop it")


def release(session: Session, job_id: str, attempt: int, *, who: Principal) -> Job:
    """Requeue a job whose worker is shutting down, at its old place. Raises StaleAttempt."""
    job = hold(session, job_id, attempt, who)
    if job.cancel_requested:
        job.reason = FailureReason.CANCELLED
        _end(session, job, JobState.CANCELLED)
    else:
        _close(session, job, "released", None, None)
        _queue_again(session, job, 0.0, f"{job.worker} is shutting down and gave it back")
    return job


def cancel(session: Session, job_id: str, attempt: int, message: str, *, who: Principal) -> Job:
    """End a cancelled job, once its processes have ended. Raises StaleAttempt."""
    job = hold(session, job_id, attempt, who)
    job.reason, job.message = FailureReason.CANCELLED, message
    _end(session, job, JobState.CANCELLED)
    return job


def fail(
    session: Session, job_id: str, attempt: int, reason: str, message: str, *, who: Principal, max_attempts: int
) -> Job:
    """End an attempt without a result: the job is tried again if that may help. Raises StaleAttempt."""
    job = hold(session, job_id, attempt, who)
    job.failures += 1
    earlier = select(func.count()).where(
        Attempt.job_id == job_id, Attempt.reason == reason, Attempt.state.in_(_COUNTED)
    )
    tries = 1 + (session.scalar(earlier) or 0)
    pause_s = retry_policy(reason).pause_s(tries, max_attempts=max_attempts)
    if job.cancel_requested:
        job.reason = FailureReason.CANCELLED
        _end(session, job, JobState.CANCELLED)
    elif pause_s is None:
        job.reason = reason
        job.message = _final(job, reason, message, tries)
        _end(session, job, JobState.FAILED)
    else:
        _close(session, job, "lost" if reason == FailureReason.WORKER_LOST else "failed", reason, message)
        _queue_again(session, job, pause_s, message if reason == FailureReason.WORKER_LOST else f"{reason}: {message}")
    return job


def _final(job: Job, reason: str, message: str, tries: int) -> str:
    if reason == FailureReason.WORKER_LOST:
        return f"its worker vanished in each of {tries} attempts; look at the worker's log{_then(job)}"
    return message if tries == 1 else f"{message} (each of {tries} attempts ended like this)"


def lose(session: Session, job_id: str, attempt: int, *, max_attempts: int) -> Job:
    """End an attempt whose worker fell silent. Raises StaleAttempt if its lease has been renewed."""
    hold(session, job_id, attempt, SYSTEM)
    # Checked while holding the lock: a heartbeat may have come in between.
    if session.scalar(select(Job.id).where(Job.id == job_id, Job.lease_until_s < db_epoch_s())) is None:
        raise stale(job_id, attempt)
    count(session, "lease_losses")
    message = "its worker fell silent"
    return fail(session, job_id, attempt, FailureReason.WORKER_LOST, message, who=SYSTEM, max_attempts=max_attempts)


def overrun(session: Session, job_id: str, attempt: int) -> Job:
    """End an attempt that is overdue. Raises StaleAttempt if it is another one by now."""
    hold(session, job_id, attempt, SYSTEM)
    if session.scalar(select(Job.id).where(Job.id == job_id, overdue())) is None:
        raise stale(job_id, attempt)
    message = f"its worker did not end it in time{_then(session.get_one(Job, job_id))}"
    return fail(session, job_id, attempt, FailureReason.TIMEOUT, message, who=SYSTEM, max_attempts=1)


def _then(job: Job) -> str:
    """The rest of a sentence: how a job is tried again; members of sweeps are not."""
    if job.sweep is None:
        return f", then try it again, a training from its last checkpoint: adapterctl jobs retry {job.id}"
    return f", then train or score by itself what it was for: adapterctl sweep show {job.sweep}"


def _queue_again(session: Session, job: Job, pause_s: float, message: str) -> None:
    move(job, JobState.QUEUED)
    job.worker = job.lease_until_s = None
    job.not_before_s = None if pause_s == 0 else session.scalar(select(db_epoch_s() + pause_s))
    session.flush()
    events.record_state(session, job, message)


def _end(session: Session, job: Job, state: JobState) -> None:
    move(job, state)
    job.lease_until_s = None
    job.finished_at = db_now(session)
    ended = "lost" if job.reason == FailureReason.WORKER_LOST else str(state)
    _close(session, job, ended, job.reason, job.message)
    session.flush()
    events.record_state(session, job, job.message)
    count_end(session, job)


def count_end(session: Session, job: Job) -> None:
    """Count a job that has reached a final state."""
    count(session, "finished", kind=job.kind, state=str(job.state), reason=counted_as(job.reason))
    if job.state == JobState.SUCCEEDED and job.started_at is not None and job.finished_at is not None:
        count_duration(session, job.kind, (job.finished_at - job.started_at).total_seconds())


def counted_as(reason: str | None) -> str:
    """The label under which an end is counted: a worker may give any reason, and each label stays for ever."""
    return "" if reason is None else reason if is_known(reason) else "other"


def _close(session: Session, job: Job, state: str, reason: str | None, message: str | None) -> None:
    row = session.get_one(Attempt, (job.id, job.attempt))
    row.state, row.reason, row.message, row.finished_at = state, reason, message, utc_now()
