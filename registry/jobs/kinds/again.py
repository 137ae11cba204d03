"""Trainings that are repeated: checks that they are the training that a version's record names."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.catalog.models import Origin
from registry.catalog.versions.finding import exact_ref, find_version, parse_ref
from registry.db.stored_json import read_stored, table
from registry.errors import Invalid
from registry.jobs.checkpoint_pins import other_than
from registry.jobs.models import Job
from registry.principal import Principal
from sdk.schemas.job_requests import TrainingRequest
from sdk.schemas.recorded import RAN_WITH, RecordedTraining

#: A worker names fewer than ten of them.
_MOST_LIBRARIES = 40


def pin_like(session: Session, request: TrainingRequest, who: Principal, namespace: str) -> TrainingRequest:
    """If a request repeats a training, return it with what is recorded about that one: what it ran with, and its day.

    Raises NotFound, and Invalid if it is a different training.
    """
    if request.like is None:
        return request
    version = find_version(session, parse_ref(request.like.ref), who)
    ref = exact_ref(version)
    if request.like.digest not in (None, version.digest):
        raise Invalid(
            f"{ref} has the digest {version.digest[:12]}, not {str(request.like.digest)[:12]}; name the version that is meant",
            param="like",
        )
    if version.adapter.namespace != namespace:
        # Everybody who may see the job would see the other version's name in it.
        raise Invalid(
            f"{ref} is of the namespace {version.adapter.namespace}; train it again under a name of that namespace",
            param="like",
        )
    made = session.scalars(select(Origin).where(Origin.version_pk == version.pk).order_by(Origin.pk).limit(1)).first()
    job = None if made is None or made.job is None else session.get(Job, made.job)
    if made is None or job is None or job.kind != request.kind:
        raise Invalid(f"no training of this registry made {ref}, so none is made again; leave like out", param="like")
    if "checkpoint_step" in table(made.training):
        raise Invalid(
            f"{ref} was published from a checkpoint, at step {table(made.training)['checkpoint_step']}, and a training goes on to its end; "
            "name a version that its training ended with",
            param="like",
        )
    theirs = read_stored(TrainingRequest, job.request, of=f"the request of job {job.id}")
    if theirs.base.fingerprint is None:
        # A worker found it on a hub.
        theirs = theirs.model_copy(
            update={"base": theirs.base.model_copy(update={"fingerprint": version.base.fingerprint})}
        )
    if request.base.fingerprint == theirs.base.fingerprint is not None:
        # Its name is mentioned among the differences.
        theirs = theirs.model_copy(update={"base": request.base})
    if others := other_than(theirs, request):
        raise Invalid(
            f"{ref} was trained with another {', '.join(others)}, so this is not its training; leave these options out, or leave like out",
            param="like",
        )
    said, libraries = table(made.training), sorted(table(made.libraries).items())
    ran_with: dict[str, Any] = {
        **dict(libraries[:_MOST_LIBRARIES]),
        "base": version.base_id,
        "base_revision": version.base_revision,
        **{name: said[name] for name in RAN_WITH if name in said},
    }
    like = RecordedTraining(ref=ref, digest=version.digest, ran_with=ran_with)
    return request.model_copy(update={"like": like, "template_date": theirs.template_date})
