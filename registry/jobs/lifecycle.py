"""A job's row for somebody who may see it, and its legal moves. The states are `sdk.schemas.jobs.JobState`."""

from __future__ import annotations

from sqlalchemy import ColumnElement
from sqlalchemy.orm import Session

from registry.errors import NotFound
from registry.jobs.models import Job
from registry.principal import Principal
from sdk.schemas.jobs import JobState

MOVES: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED}),
    # Back to queued if its worker is lost, gives it back, or failed in a way that another try may fix.
    JobState.RUNNING: frozenset({JobState.QUEUED, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}

#: Final states.
FINAL = tuple(state for state in JobState if state.is_final)
#: States of jobs that wait or run.
UNFINISHED = tuple(state for state in JobState if not state.is_final)


def may_become(to: JobState) -> ColumnElement[bool]:
    """The condition that a job may move to a state, for an UPDATE: whoever changes the row has made the move."""
    return Job.state.in_([state for state, targets in MOVES.items() if to in targets])


def move(job: Job, to: JobState) -> None:
    """Move a job whose row the caller has locked. Raises RuntimeError for a move that is not in the table."""
    if to not in MOVES.get(JobState(job.state), ()):
        raise RuntimeError(f"job {job.id} can't move from {job.state} to {to}")
    job.state = to


def find_job(session: Session, job_id: str, who: Principal, *, action: str = "read") -> Job:
    """Return the row of a job. Raises NotFound, Forbidden if `action` is not allowed in its namespace."""
    missing = f"there is no job {job_id[:64]!a}; list them with: adapterctl jobs list"
    job = session.get(Job, job_id)
    if job is None:
        raise NotFound(missing, param="job")
    who.require(action, job.namespace, missing=missing, param="job")
    return job
