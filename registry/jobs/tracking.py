"""Trackers of trainings: whether a worker has their libraries, and the runs to which a job's points are forwarded."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from importlib.util import find_spec
from typing import Any

from sqlalchemy.orm import Session

from registry.db.stored_json import readable, table
from registry.errors import Invalid
from registry.jobs.available_workers import AvailableWorker, available_workers, lately_seen_workers
from registry.jobs.models import Job
from registry.jobs.needs import trackers_in
from sdk.schemas.job_requests import TrainingRequest
from sdk.schemas.jobs import JobState
from sdk.schemas.trackers import TRACKERS, Runs, TrackedRun, install_command
from sdk.schemas.wire import Wire

_PARAM = "spec.report_to"


def trackers_of(request: Wire) -> list[str]:
    """Return the trackers to which a job's points are to be forwarded."""
    return [*request.spec.trackers] if isinstance(request, TrainingRequest) else []


def without_trackers(needed: str | None, workers: Sequence[AvailableWorker]) -> str | None:
    """Say which of the trackers that a job asks for none of some workers has, and what to do; None if one has them all."""
    asked = trackers_in(needed)
    if not asked or not workers or any(asked <= worker.trackers for worker in workers):
        return None
    lacking = sorted(asked - frozenset().union(*(worker.trackers for worker in workers)))
    if not lacking:
        names = ", ".join(sorted(asked))
        return f"no worker has the libraries of all of {names}; install them on one, and start it again: {install_command(asked)}"
    return f"no worker has the library of {' or '.join(lacking)}; install it on the workers, and start them again: {install_command(lacking)}"


def require_trackers(session: Session, needed: str | None, *, namespace: str, queue: str) -> None:
    """Raise Invalid if none of the workers that could have a job has the libraries of its trackers.

    If there is none at present, nobody knows which workers will come; one that was seen within the week may come back.
    """
    if not trackers_in(needed) or not any(worker.serves(queue, namespace) for worker in available_workers(session)):
        return
    known = [worker for worker in lately_seen_workers(session) if worker.serves(queue, namespace)]
    if (said := without_trackers(needed, known)) is not None:
        raise Invalid(f"{said}; or leave report_to out", param=_PARAM)


def require_libraries(names: Collection[str]) -> None:
    """Raise Invalid for a tracker without its library in this process's environment, which an embedded registry's runner
    shares.
    """
    if lacking := [name for name in names if find_spec(name) is None]:
        raise Invalid(
            f"this environment lacks the library of {' and '.join(lacking)}; run: {install_command(lacking)}, or leave report_to out",
            param=_PARAM,
        )


def runs_of(job: Job) -> Runs:
    """Return the runs of a job, as far as this release knows their trackers."""
    stored = table(job.runs)
    found = {name: readable(TrackedRun, stored[name]) for name in TRACKERS if name in stored}
    return {name: run for name, run in found.items() if run is not None}


def continued_runs(session: Session, request: Wire, namespace: str) -> dict[str, Any] | None:
    """Return the runs that a training goes on with: those of the job whose checkpoint it starts from, if that one has
    ended without a result in the same namespace.
    """
    if not isinstance(request, TrainingRequest) or request.from_checkpoint is None:
        return None
    earlier = session.get(Job, request.from_checkpoint.job)
    if earlier is None or earlier.namespace != namespace or earlier.state not in (JobState.FAILED, JobState.CANCELLED):
        return None
    return earlier.runs


def note_runs(job: Job, runs: Runs) -> None:
    """Keep what a worker says of the runs of a job."""
    if runs:
        said: dict[str, Any] = {name: run.model_dump() for name, run in runs.items()}
        job.runs = {**(job.runs or {}), **said}
