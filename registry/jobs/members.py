"""Members of sweeps: their trainings, and what these have kept, found by ref for somebody who may see them.

A member keeps its adapter as a checkpoint of its job, with the manifest that a version has that is made of it: what was
scored of the one counts for the other.
"""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from registry.artifacts.models import ManifestRow
from registry.catalog.models import Origin, Version
from registry.catalog.versions.finding import exact_ref
from registry.catalog.versions.lifecycle import PULLABLE
from registry.db.stored_json import read_stored
from registry.errors import NotFound
from registry.jobs.lifecycle import UNFINISHED
from registry.jobs.models import Checkpoint, Job
from registry.principal import Principal
from sdk.formats.refs import MemberRef
from sdk.schemas.jobs import JobState
from sdk.schemas.training_report import TrainingReport

#: The condition that a checkpoint is what a member has kept: an adapter, without a state from which a training could go on.
IS_RESULT = exists().where(ManifestRow.digest == Checkpoint.manifest_digest, ManifestRow.kind == "adapter")


class KeptMember(NamedTuple):
    """A member of a sweep that has kept its adapter."""

    ref: MemberRef
    job: Job
    kept: Checkpoint

    def report(self) -> TrainingReport:
        """Return what its training did. Raises Unreadable."""
        return read_stored(TrainingReport, self.kept.report, of=str(self.ref))


def find_job_of_member(session: Session, ref: MemberRef, who: Principal, *, action: str = "read") -> Job:
    """Return the training of a member. Raises NotFound, Forbidden if `action` is not allowed in its namespace."""
    missing = f"there is no {ref}; see the members of a sweep with: adapterctl sweep show {ref.sweep}"
    of = (Job.sweep == ref.sweep, Job.sweep_number == ref.number)
    job = session.scalars(select(Job).where(*of)).first()
    if job is None:
        raise NotFound(missing, param="ref")
    who.require(action, job.namespace, missing=missing, param="ref")
    return job


def find_member(
    session: Session, ref: MemberRef, who: Principal, *, action: str = "read", to_keep: bool = False
) -> KeptMember:
    """Return a member with what it has kept; with `to_keep`, nobody lets that go until the transaction ends.

    Raises NotFound, which says so if it has kept nothing, or no longer, and Forbidden.
    """
    job = find_job_of_member(session, ref, who, action=action)
    query = select(Checkpoint).where(Checkpoint.job_id == job.id, IS_RESULT).order_by(Checkpoint.seq.desc()).limit(1)
    kept = session.scalars(query.with_for_update() if to_keep else query).first()
    if kept is None:
        raise NotFound(_why_gone(session, ref, job), param="ref")
    return KeptMember(ref, job, kept)


def keep_members(session: Session, refs: list[MemberRef], who: Principal) -> None:
    """Keep what members have kept, also if it was about to be let go, until no job that waits or runs names it. Raises
    NotFound.
    """
    # In one order, as everybody who locks several.
    for ref in sorted(refs, key=str):
        member = find_member(session, ref, who, to_keep=True)
        member.kept.kept, member.kept.expires_at = True, None


def has_member_with(session: Session, namespace: str, digest: str) -> bool:
    """Whether a job of a namespace has kept the manifest with this digest."""
    kept = select(Checkpoint.step).join(Job, Job.id == Checkpoint.job_id)
    of = (Checkpoint.manifest_digest == digest, Job.namespace == namespace)
    return session.scalars(kept.where(*of).limit(1)).first() is not None


def is_kept_result(session: Session, checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint is what a member of a sweep has kept."""
    of = (Checkpoint.job_id == checkpoint.job_id, Checkpoint.step == checkpoint.step)
    return session.scalar(select(Checkpoint.step).where(*of, IS_RESULT)) is not None


def _why_gone(session: Session, ref: MemberRef, job: Job) -> str:
    if job.state in UNFINISHED:
        return f"{ref} has no adapter yet: job {job.id} is {job.state}; wait for it with: adapterctl jobs wait {job.id}"
    if job.state != JobState.SUCCEEDED:
        return f"{ref} has no adapter: job {job.id} is {job.state}; see why with: adapterctl jobs show {job.id}"
    made = select(Version).join(Origin, Origin.version_pk == Version.pk)
    made = made.where(Origin.job == job.id, Version.number.is_not(None), Version.state.in_(PULLABLE))
    version = session.scalars(made.order_by(Version.pk.desc()).limit(1)).first()
    if version is not None:
        return f"{ref} was published, and is {exact_ref(version)} since; name that"
    return (
        f"member {ref.number} of sweep {ref.sweep} was not kept: the sweep has ended, and only members that were published "
        f"stay; train it again with the options that this shows: adapterctl jobs show {job.id}"
    )
