"""What a job needs, which worker has it, and why a job waits."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import replace

from sqlalchemy import ColumnElement, or_
from sqlalchemy.orm import Session

from registry.errors import Unavailable
from registry.jobs.available_workers import AvailableWorker, available_workers, lately_seen_workers
from registry.jobs.models import Job
from registry.jobs.needs import has_all, may_have_all, trackers_in, unknown_here, unknown_to_all, without_scorers
from registry.jobs.tracking import without_trackers
from sdk.lora.memory import merge_bytes
from sdk.schemas.job_requests import JOB_KINDS, known_fields
from sdk.schemas.jobs import Needs
from sdk.schemas.optimizers import OPTIMIZERS
from sdk.schemas.work import WorkerInfo


def needs_to_merge(*, quantized: bool) -> Needs:
    """Return what the merge of a version needs; `quantized`: whether it was trained over a quantised base."""
    return Needs(memory_bytes=merge_bytes(quantized=quantized))


def fits(worker: WorkerInfo) -> tuple[ColumnElement[bool], ...]:
    """The condition that a queued job of a queue that a worker listens to may be given to it."""
    devices = ["any", "cuda"] if worker.device == "cuda" else ["any"]
    enough = or_(Job.needs_memory_bytes.is_(None), Job.needs_memory_bytes <= worker.free_memory_bytes)
    least = Job.least_card_bytes if worker.device == "cuda" else Job.least_machine_bytes
    roomy = or_(least.is_(None), least <= worker.memory_bytes)
    return (
        # Needed too if a worker of a newer release does kinds for which this registry can't make an assignment.
        Job.kind.in_([kind for kind in worker.kinds if kind in JOB_KINDS]),
        Job.needs_device.in_(devices),
        has_all(worker),
        # A worker whose system does not say how much memory it has is assumed to have enough.
        *([enough, roomy] if worker.memory_bytes else []),
    )


def obstacle(job: Job, workers: Sequence[AvailableWorker]) -> str | None:
    """Say why no available worker may have a job; None if one may. What is free on it now doesn't count, because it
    changes.
    """
    if job.kind not in JOB_KINDS:
        return f"this registry has no jobs of the kind {job.kind!a}; upgrade it"
    if (said := unknown_here(job.needs)) is not None:
        return said
    listening = [worker for worker in workers if worker.takes(job)]
    if not listening:
        return f"no worker listens to the queue {job.queue}; start one with: adapter-worker start --queue {job.queue}"
    if job.needs_device == "cuda":
        listening = [worker for worker in listening if worker.device == "cuda"]
        if not listening:
            return f"{_card_for(job)} a CUDA GPU, and no worker of the queue {job.queue} has one"
    if (said := unknown_to_all(job.needs, listening)) is not None:
        return said
    # Readers of the job may read in its namespace.
    if (said := without_scorers(job.needs, listening, reads=(job.namespace,))) is not None:
        return said
    if (said := without_trackers(job.needs, listening)) is not None:
        return said
    listening = [worker for worker in listening if may_have_all(worker, job.needs)]
    lacking = [(worker, least) for worker in listening if (least := _lacks(worker, job)) is not None]
    if len(lacking) == len(listening):
        worker, wanted = max(lacking, key=lambda each: each[0].memory_bytes)
        advice = "" if wanted == job.needs_memory_bytes else _ADVICE
        return f"it needs {_gib(wanted)} of memory, and the largest worker that may run it has {_gib(worker.memory_bytes)}{advice}"
    return None


def _card_for(job: Job) -> str:
    """What of a job needs a card, as the beginning of a sentence."""
    spec = job.request.get("spec") if isinstance(job.request, dict) else None
    optim = spec.get("optim") if isinstance(spec, dict) else None
    known = OPTIMIZERS.get(optim) if isinstance(optim, str) else None  # type: ignore[call-overload]
    return f"the optimiser {optim} needs" if known is not None and known.needs_card else "it needs"


def no_worker(what: str, waits: str) -> Unavailable:
    """Return what refuses a job, or a sweep, that was to be refused if no worker can run it now."""
    return Unavailable(
        f"no worker can run this {what} now: {waits}; or leave require_worker out, and it waits", param="require_worker"
    )


def why_no_worker(session: Session, job: Job, *, embedded: bool) -> str | None:
    """Say why none of the workers that are there now may have a job; None if one may, or if nobody can know."""
    if not embedded:
        return obstacle(job, available_workers(session))
    # A runner comes when there is a job. It is of this release and environment, and on the machine where one was before.
    runners = [
        replace(worker, fields=frozenset(known_fields()), scorers=None, trackers=frozenset(trackers_in(job.needs)))
        for worker in lately_seen_workers(session)
    ]
    return obstacle(job, runners) if runners else None


#: Added if a forecast is the reason, because it may be wrong for a job's own rows.
_ADVICE = (
    "; start a larger one, or submit it again with a smaller batch, shorter rows, or your own figure of its memory"
)


def _lacks(worker: AvailableWorker, job: Job) -> int | None:
    """Return what a job needs in all if a worker has less; None if it has enough, or does not say what it has."""
    least = job.least_card_bytes if worker.device == "cuda" else job.least_machine_bytes
    wanted = max(least or 0, job.needs_memory_bytes or 0)
    return wanted if worker.memory_bytes and wanted > worker.memory_bytes else None


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f} GiB"


def why_waiting(
    job: Job, workers: Sequence[AvailableWorker], *, busy: Container[tuple[str, str]], ahead: int | None, now_s: float
) -> str:
    """Say in one sentence why a queued job waits; `busy` has owner and name of each worker that holds a job."""
    if job.not_before_s is not None and job.not_before_s > now_s:
        return f"it failed and will be tried again in {job.not_before_s - now_s:.0f} s"
    if (found := obstacle(job, workers)) is not None:
        return found
    if ahead:
        return f"{ahead} {'job goes' if ahead == 1 else 'jobs go'} first"
    able = [worker for worker in workers if worker.takes(job) and may_have_all(worker, job.needs)]
    idle = [worker for worker in able if (worker.owner, worker.name) not in busy]
    if not idle:
        return "every worker that may run it is busy"
    wanted = job.needs_memory_bytes or 0
    free = max(worker.free_memory_bytes if worker.memory_bytes else wanted for worker in idle)
    if wanted > free:
        return (
            f"it needs {_gib(wanted)} of free memory, and of the idle workers that may run it none has more than {_gib(free)} "
            "free; end what else takes memory there"
        )
    return "a worker is about to take it"
