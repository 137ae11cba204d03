"""A job's row, for somebody who may see it."""

from __future__ import annotations

from sqlalchemy.orm import Session

from registry.errors import NotFound
from registry.jobs.models import Job
from registry.principal import Principal


def find_job(session: Session, job_id: str, who: Principal, *, action: str = "read") -> Job:
    """Return the row of a job. Raises NotFound, Forbidden if `action` is not allowed in its namespace."""
    missing = f"there is no job {job_id[:64]!a}; list them with: adapterctl jobs list"
    job = session.get(Job, job_id)
    if job is None:
        raise NotFound(missing, param="job")
    who.require(action, job.namespace, missing=missing, param="job")
    return job
