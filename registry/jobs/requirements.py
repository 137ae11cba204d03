"""What a job needs, which worker has it, and why a job waits."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, or_

from registry.catalog.bases.finding import tensors_of
from registry.catalog.models import NamedBase
from registry.db.stored_json import table
from registry.jobs.available_workers import AvailableWorker
from registry.jobs.models import Job
from registry.jobs.releases import OURS, name_of, number_of
from sdk.lora.experts import experts_share
from sdk.lora.memory import loading_bytes, merge_bytes
from sdk.schemas.jobs import JOB_KINDS, MOST_MEMORY_BYTES, Needs
from sdk.schemas.work import WorkerInfo

#: What experts are held in that are stored so; of others it is another share that stays.
_SIXTEEN_BIT = ("bfloat16", "float16")


def needs_to_load(base: NamedBase | None, *, quantized: bool) -> Needs:
    """Return what a job surely needs that loads a base, as `sdk.lora.memory` says; nothing where the base is not known."""
    if base is None:
        return Needs()
    config = table(base.config)
    kept = 0.0
    # Names by the thousand, which are read of a mixture of experts alone.
    if quantized and _counts_experts(config) and _stored_dtype(config) in _SIXTEEN_BIT:
        kept = experts_share(tensors_of(base))
    return _needs(loading_bytes(base.size_bytes, quantized=quantized, kept_share=kept))


def needs_to_merge(base: NamedBase | None, *, quantized: bool) -> Needs:
    """Return what the merge of a version needs; `quantized`: whether it was trained over a quantised base."""
    return Needs() if base is None else _needs(merge_bytes(quantized=quantized))


def _needs(memory_bytes: int) -> Needs:
    # A base of any size may be claimed, and no worker has what this much asks for.
    return Needs(memory_bytes=min(memory_bytes, MOST_MEMORY_BYTES))


def _counts_experts(config: Mapping[str, Any]) -> bool:
    """Whether a config, or its text model's, says that there are experts."""
    text = config.get("text_config")
    return any("expert" in key for part in (config, text if isinstance(text, dict) else {}) for key in part)


def _stored_dtype(config: Mapping[str, Any]) -> str | None:
    """Return the precision that a base's config names, by its name now or before; None if it names none."""
    said = config.get("dtype", config.get("torch_dtype"))
    return said if isinstance(said, str) else None


def fits(worker: WorkerInfo) -> tuple[ColumnElement[bool], ...]:
    """The condition that a queued job of a queue that a worker listens to may be given to it."""
    devices = ["any", "cuda"] if worker.device == "cuda" else ["any"]
    enough = or_(Job.needs_memory_bytes.is_(None), Job.needs_memory_bytes <= worker.free_memory_bytes)
    return (
        # Also where a worker of a newer release does more kinds than this registry can make an assignment of.
        Job.kind.in_([kind for kind in worker.kinds if kind in JOB_KINDS]),
        Job.needs_device.in_(devices),
        Job.needs_release <= min(OURS, number_of(worker.version)),
        # A system that does not say how much memory it has is taken at its word that it is a worker.
        *([enough] if worker.memory_bytes else []),
    )


def obstacle(job: Job, workers: Sequence[AvailableWorker]) -> str | None:
    """Say why no available worker may have a job; None if one may. What it has free now is of no account: it changes."""
    if job.kind not in JOB_KINDS:
        return f"this registry has no jobs of the kind {job.kind!a}; upgrade it"
    if job.needs_release > OURS:
        return f"it needs release {name_of(job.needs_release)}, and this registry is {name_of(OURS)}; upgrade it"
    listening = [worker for worker in workers if worker.takes(job)]
    if not listening:
        return f"no worker listens to the queue {job.queue}; start one with: adapter-worker start --queue {job.queue}"
    if job.needs_device == "cuda":
        listening = [worker for worker in listening if worker.device == "cuda"]
        if not listening:
            return f"it needs a CUDA card, and no worker of the queue {job.queue} has one"
    listening = [worker for worker in listening if number_of(worker.version) >= job.needs_release]
    if not listening:
        return f"it needs workers of release {name_of(job.needs_release)}, and there is none; upgrade them"
    most = max(worker.memory_bytes or 2**63 for worker in listening)
    if job.needs_memory_bytes is not None and job.needs_memory_bytes > most:
        wanted, had = (f"{size / 2**30:.1f} GiB" for size in (job.needs_memory_bytes, most))
        return f"it needs {wanted} of memory, and the largest worker that may run it has {had}"
    return None


def why_waiting(
    job: Job, workers: Sequence[AvailableWorker], *, busy: Container[tuple[str, str]], ahead: int | None, now_s: float
) -> str:
    """Say in one sentence why a queued job waits; `busy` are owner and name of the workers that hold a job."""
    if job.not_before_s is not None and job.not_before_s > now_s:
        return f"it failed and will be tried again in {job.not_before_s - now_s:.0f} s"
    if (found := obstacle(job, workers)) is not None:
        return found
    if ahead:
        return f"{ahead} {'job goes' if ahead == 1 else 'jobs go'} first"
    if all((worker.owner, worker.name) in busy for worker in workers if worker.takes(job)):
        return "every worker that may run it is busy"
    return "a worker is about to take it"
