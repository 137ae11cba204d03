"""Which checkpoint a training starts from: found, pinned so that it is kept, and compared with what is asked for."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.artifacts.manifests import read_manifest
from registry.db.stored_json import read_stored
from registry.errors import Invalid, NotFound
from registry.jobs.lifecycle import find_job
from registry.jobs.members import is_kept_result
from registry.jobs.models import Checkpoint, Job
from registry.principal import Principal
from sdk.schemas.job_requests import CheckpointRef, TrainingRequest
from sdk.schemas.training import WITHOUT_EFFECT
from sdk.schemas.work import CheckpointSource

#: The last checkpoint of a job is the one that was recorded last: a training that starts over passes the same steps
#: again. Their times don't show this, since each is from the clock of the server that recorded it.
NEWEST_FIRST = (Checkpoint.seq.desc(), Checkpoint.created_at.desc(), Checkpoint.step.desc())


def training_of(job: Job) -> TrainingRequest:
    """Return the request of a training. Raises Unreadable."""
    return read_stored(TrainingRequest, job.request, of=f"the request of job {job.id}")


def resume_point(session: Session, job: Job, request: TrainingRequest) -> CheckpointSource | None:
    """Where an attempt resumes from: the job's own last checkpoint, else the one that it was submitted with.

    Raises NotFound if that is gone.
    """
    own = select(Checkpoint.step).where(Checkpoint.job_id == job.id).limit(1)
    if session.scalar(own) is not None:
        wanted = CheckpointRef(job=job.id)
    elif request.from_checkpoint is not None:
        wanted = request.from_checkpoint
    else:
        return None
    row = find_checkpoint(session, wanted)
    return CheckpointSource(job=row.job_id, step=row.step, manifest=read_manifest(session, row.manifest_digest))


def pin_checkpoint(session: Session, request: TrainingRequest, who: Principal) -> TrainingRequest:
    """Pin the checkpoint that a training starts from; `keep_checkpoint` keeps it.

    Raises NotFound, Invalid if the earlier job trained something else: its optimiser's state means nothing here.
    """
    if request.from_checkpoint is None:
        return request
    earlier = find_job(session, request.from_checkpoint.job, who)
    row = find_checkpoint(session, request.from_checkpoint)
    if is_kept_result(session, row):
        raise Invalid(
            f"job {earlier.id} is a member of a sweep and has ended, so it has no checkpoint to resume from; publish it, and continue "
            f"the version: adapterctl jobs publish {earlier.id}",
            param="from_checkpoint",
        )
    theirs = training_of(earlier)
    day = request.template_date or theirs.template_date
    if others := other_than(theirs, request):
        raise Invalid(
            f"job {earlier.id} was submitted with another {', '.join(others)}, so this job can't start from its checkpoints; "
            "give the same, or leave from_checkpoint out",
            param="from_checkpoint",
        )
    checkpoint = CheckpointRef(job=row.job_id, step=row.step)
    return request.model_copy(update={"from_checkpoint": checkpoint, "template_date": day})


def keep_checkpoint(session: Session, request: TrainingRequest) -> None:
    """Keep the checkpoint that a training was pinned to until the training has ended. Raises NotFound."""
    if request.from_checkpoint is not None:
        row = find_checkpoint(session, request.from_checkpoint, to_keep=True)
        row.kept, row.expires_at = True, None


def other_than(theirs: TrainingRequest, request: TrainingRequest) -> list[str]:
    """Name what a training is asked for otherwise than another; no day means that of the other."""
    named = ("base", "data", "eval_data", "test_data", "parent")
    others = [name for name in named if getattr(theirs, name) != getattr(request, name)]
    if _weighed(theirs) != _weighed(request) and "data" not in others:
        others.append("data")
    if request.template_date not in (None, theirs.template_date):
        others.append("template_date")
    return others + [
        name for name, value in request.spec if name not in WITHOUT_EFFECT and getattr(theirs.spec, name) != value
    ]


def _weighed(request: TrainingRequest) -> list[tuple[str, float | None]]:
    """Return what several datasets a training is on, whatever they are called."""
    return [(source.data, source.weight) for source in request.sources or ()]


def pin_again(session: Session, job: Job, request: dict[str, Any], who: Principal) -> dict[str, Any]:
    """Return the request of a job that is tried again: a training resumes from its last checkpoint, or where it began.

    Raises NotFound if that is gone, or is of a job that the caller may not see.
    """
    last = select(Checkpoint).where(Checkpoint.job_id == job.id).order_by(*NEWEST_FIRST).limit(1)
    if (row := session.scalars(last.with_for_update()).first()) is not None:
        row.kept, row.expires_at = True, None
        return {**request, "from_checkpoint": {"job": job.id, "step": row.step}}
    if request.get("from_checkpoint") is None:
        return request
    began = read_stored(TrainingRequest, request, of=f"the request of job {job.id}")
    pinned = pin_checkpoint(session, began, who)
    keep_checkpoint(session, pinned)
    return pinned.model_dump(mode="json")


def find_checkpoint(session: Session, ref: CheckpointRef, *, to_keep: bool = False) -> Checkpoint:
    """Return a checkpoint, or a job's last one. Raises NotFound."""
    query = select(Checkpoint).where(Checkpoint.job_id == ref.job)
    if to_keep:
        query = query.with_for_update()
    if ref.step is not None:
        query = query.where(Checkpoint.step == ref.step)
    row = session.scalars(query.order_by(*NEWEST_FIRST).limit(1)).first()
    if row is None:
        which = "no checkpoint" if ref.step is None else f"no checkpoint of step {ref.step}"
        raise NotFound(
            f"job {ref.job[:64]!a} has {which}; see: adapterctl jobs checkpoints {ref.job[:64]}", param="step"
        )
    return row
