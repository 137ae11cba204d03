"""A job's row for somebody who may see it, and its legal moves. The states are `sdk.schemas.jobs.JobState`."""

from __future__ import annotations

import re

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from registry.errors import Invalid, NotFound
from registry.jobs.models import Job
from registry.principal import Principal
from sdk.schemas.jobs import JobState

#: The beginning of an id.
_BEGINNING = re.compile(r"[0-9a-f]{6,11}")

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


def find_job_by_beginning(session: Session, beginning: str, who: Principal) -> Job:
    """Return the row of the job whose id is, or begins with, at least 6 characters that are of no other job that the caller may see.

    Raises NotFound, Invalid.
    """
    if not _BEGINNING.fullmatch(beginning):
        return find_job(session, beginning, who)
    # A range, which the index of ids serves.
    begins = (Job.id >= beginning, Job.id < f"{beginning}g")
    visible = session.scalars(select(Job.id).where(*begins, who.within(Job.namespace)).limit(2)).all()
    if len(visible) > 1:
        raise Invalid(f"several jobs begin with {beginning!a}; write more of the id", param="job")
    return find_job(session, visible[0] if visible else beginning, who)


def find_job(session: Session, job_id: str, who: Principal, *, action: str = "read") -> Job:
    """Return the row of a job. Raises NotFound, Forbidden if `action` is not allowed in its namespace."""
    missing = f"there is no job {job_id[:64]!a}; list them with: adapterctl jobs list"
    job = session.get(Job, job_id)
    if job is None:
        raise NotFound(missing, param="job")
    who.require(action, job.namespace, missing=missing, param="job")
    return job
