"""A training that is run again as its own numbers advise: its request, and what was changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from sqlalchemy.orm import Session

from registry.db.stored_json import read_stored, readable, table
from registry.errors import Conflict
from registry.jobs.lifecycle import FINAL
from registry.jobs.models import Job
from registry.usage.charging import record_bytes
from sdk.schemas.advice import Advice, changes_of
from sdk.schemas.job_requests import TrainingRequest
from sdk.schemas.jobs import JobState
from sdk.schemas.training import TrainingSpec
from sdk.schemas.version_records import TrainingRecord, changes_said

#: Under which name a training's result has its advice.
ADVICE = "advice"
#: What of it is kept before there is a result; workers send less.
_MOST_BYTES = 16 * 1024


def advice_of(job: Job) -> list[Advice]:
    """Return what a training is advised: by its result, or by its last attempt so far."""
    stored: Any = table(job.result).get(ADVICE) if job.state == JobState.SUCCEEDED else job.advice
    found = [readable(Advice, one) for one in (stored if isinstance(stored, list) else ())]
    return [one for one in found if one is not None]


def note_advice(job: Job, advice: Sequence[Advice]) -> None:
    """Keep what a worker says that a training is advised so far."""
    said = [one.model_dump(mode="json") for one in advice]
    if said and record_bytes(said) <= _MOST_BYTES:
        job.advice = said


def advised_request(job: Job) -> TrainingRequest:
    """Return the request of a training that has ended, changed as it is advised; it begins anew.

    Raises Conflict for a job that has not ended, or has no advice that changes anything.
    """
    if job.state not in FINAL:
        raise Conflict(f"job {job.id} is {job.state}, and what to change is only known when it has ended", param="job")
    changes = changes_of(advice_of(job))
    request = None if job.kind != "training" else read_stored(TrainingRequest, table(job.request), of=f"job {job.id}")
    if not changes or request is None:
        raise Conflict(
            f"job {job.id} has no advice that changes an option, so there is nothing to run otherwise; leave --advice out, or change"
            " what you want with: adapterctl train",
            param="advice",
        )
    try:
        spec = TrainingSpec.model_validate({**request.spec.model_dump(), **changes})
    except ValidationError as error:
        told = error.errors()[0]["msg"]
        raise Conflict(
            f"the advice of job {job.id} doesn't fit its other options ({told}); change them with: adapterctl train",
            param="advice",
        ) from error
    # Neither a checkpoint of the other options, nor the version that was repeated, is of this training.
    return request.model_copy(update={"spec": spec, "from_checkpoint": None, "like": None})


def changed_since(session: Session, retry_of: str | None, request: TrainingRequest) -> TrainingRecord:
    """Return what to record of a training that repeats another job with other options; nothing if it has the same."""
    earlier = None if retry_of is None else session.get(Job, retry_of)
    if earlier is None:
        return TrainingRecord()
    was: dict[str, Any] = table(table(earlier.request).get("spec"))
    is_now = request.spec.model_dump(mode="json")
    changes = {name: (was.get(name), value) for name, value in is_now.items() if was.get(name) != value}
    if not changes:
        return TrainingRecord()
    return TrainingRecord(retry_of=earlier.id, changed=changes_said(changes))
