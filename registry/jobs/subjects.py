"""What is scored: a version, or what a member of a sweep has kept; the same is known of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.artifacts.manifests import read_manifest
from registry.catalog.models import Origin, Version
from registry.catalog.versions.finding import exact_ref, find_version, parse_ref_or_member
from registry.catalog.versions.kinds import require_adapter
from registry.db.stored_json import read_stored, salvage
from registry.jobs.checkpoint_pins import training_of
from registry.jobs.members import KeptMember, find_member
from registry.principal import Principal
from sdk.formats.refs import MemberRef
from sdk.schemas.lora_config import QuantizationRecipe
from sdk.schemas.training_report import DatasetUse


@dataclass(frozen=True)
class Subject:
    """An adapter that is scored."""

    #: The ref that always means it.
    ref: str
    #: The name that it has, or would have as a version.
    adapter: str
    namespace: str
    #: Of its manifest.
    digest: str
    #: Of its base.
    fingerprint: str
    #: As stored.
    lora: Any
    quantization: Any
    #: How its training used its dataset; None if nobody said.
    use: DatasetUse | None
    is_member: bool = False

    @property
    def recipe(self) -> QuantizationRecipe | None:
        """How the base was quantised, as far as anybody said. Raises Unreadable."""
        if self.quantization is None:
            return None
        return read_stored(QuantizationRecipe, self.quantization, of=f"the quantisation of {self.ref}")


def of_version(session: Session, version: Version) -> Subject:
    """Return what is known of a version."""
    return Subject(
        ref=exact_ref(version),
        adapter=version.adapter.name,
        namespace=version.adapter.namespace,
        digest=version.digest,
        fingerprint=version.base.fingerprint,
        lora=version.lora,
        quantization=version.quantization,
        use=dataset_use(session, version),
    )


def of_member(session: Session, member: KeptMember) -> Subject:
    """Return what is known of a member of a sweep. Raises Unreadable."""
    report, request = member.report(), training_of(member.job)
    return Subject(
        ref=str(member.ref),
        adapter=request.adapter,
        namespace=member.job.namespace,
        digest=member.kept.manifest_digest,
        fingerprint=read_manifest(session, member.kept.manifest_digest).base_fingerprint,
        lora=report.lora.model_dump(mode="json"),
        quantization=None if report.quantization is None else report.quantization.model_dump(mode="json"),
        use=report.dataset_use(request.data),
        is_member=True,
    )


def find_scored(session: Session, text: str, who: Principal, *, action: str = "read") -> Subject:
    """Return what a ref names now, to score it. Raises InvalidName, InvalidRef, NotFound, Forbidden, and Invalid for a
    merged model.
    """
    ref = parse_ref_or_member(text)
    if isinstance(ref, MemberRef):
        return of_member(session, find_member(session, ref, who, action=action))
    version = find_version(session, ref, who, action=action)
    require_adapter(session, version, "evaluated", param="targets")
    return of_version(session, version)


def dataset_use(session: Session, version: Version) -> DatasetUse | None:
    """Return how a version's training used its dataset; None if nobody said."""
    first = select(Origin.dataset).where(Origin.version_pk == version.pk).order_by(Origin.pk).limit(1)
    stored = session.scalars(first).first()
    return None if stored is None else salvage(DatasetUse, stored)[0]
