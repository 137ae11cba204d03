"""A member of a sweep as it is shown: what can be said of it of what is said of versions."""

from __future__ import annotations

from sqlalchemy.orm import Session

from registry.catalog.bases.finding import find_base
from registry.db.database import Database
from registry.errors import NotFound
from registry.jobs.checkpoint_pins import training_of
from registry.jobs.checkpoints import publishable
from registry.jobs.members import KeptMember, find_member
from registry.principal import Principal
from sdk.formats.refs import MemberRef
from sdk.schemas.catalog import KEPT, BaseBrief, JobRef, VersionView
from sdk.schemas.job_requests import BaseChoice
from sdk.schemas.version_records import TrainingRecord


class ShownMembers:
    """Shows members as the catalogue shows versions."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def resolve(self, ref: MemberRef, *, who: Principal) -> VersionView:
        """Return a member. Raises NotFound, Unreadable."""
        with self._db.read() as session:
            return present_member(session, find_member(session, ref, who))


def present_member(session: Session, member: KeptMember) -> VersionView:
    """Return what a member has kept as the version that it may become: without a number, and in the state "kept".

    Raises NotFound, Unreadable, Verification if it is not what its job asked for.
    """
    job, row = member.job, member.kept
    settled, reported, notes = publishable(session, job, row, TrainingRecord())
    return VersionView(
        ref=str(member.ref),
        adapter=settled.adapter,
        number=None,
        digest=settled.manifest.digest,
        state=KEPT,
        kind=settled.manifest.kind,
        aliases=[],
        tags={},
        description="",
        created_by=job.created_by,
        created_at=row.created_at,
        base=_base(session, training_of(job).base, settled.manifest.base_fingerprint or "", job.namespace),
        lora=settled.lora,
        method=settled.method or "unknown",
        quantization=settled.quantization,
        dataset=settled.dataset,
        training=settled.training,
        metrics=settled.metrics,
        parents=settled.parents,
        job=JobRef(id=job.id, attempt=row.attempt),
        libraries=settled.libraries,
        reported=reported,
        unknown=[],
        warnings=notes,
        files=settled.manifest.files,
    )


def _base(session: Session, choice: BaseChoice, fingerprint: str, namespace: str) -> BaseBrief:
    try:
        row = find_base(session, fingerprint, namespace)
    except NotFound:
        # It was removed since: what the job asked for is all that is known.
        return BaseBrief(
            id=choice.id, revision=choice.revision, fingerprint=fingerprint, weights_digest="", architecture=""
        )
    return BaseBrief(
        id=row.id,
        revision=row.revision,
        fingerprint=fingerprint,
        weights_digest=row.weights_digest,
        architecture=row.architecture,
    )
