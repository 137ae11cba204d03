"""Where a worker finds the things that a job was pinned to."""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy.orm import Session

from registry.artifacts.manifests import read_manifest
from registry.catalog.bases.finding import files_of, find_base
from registry.catalog.models import NamedBase
from registry.catalog.versions.finding import find_version, parse_ref
from registry.jobs.subjects import Subject, of_version
from registry.principal import SYSTEM
from sdk.schemas.job_requests import BaseChoice
from sdk.schemas.recorded import Rendering
from sdk.schemas.work import BaseSource, CheckpointSource, TargetSource


@dataclass(frozen=True)
class JobInputs:
    """What a worker is given for a job in addition to its datasets."""

    base: BaseSource | None = None
    targets: list[TargetSource] = field(default_factory=list)
    checkpoint: CheckpointSource | None = None


def base_source(session: Session, choice: BaseChoice, namespace: str) -> BaseSource:
    """Where a base of a namespace is found. Raises NotFound."""
    if choice.fingerprint is None:
        location = f"hf://{choice.id}@{choice.revision}"
        return BaseSource(id=choice.id, revision=choice.revision, fingerprint=None, location=location)
    return _source_of(session, find_base(session, choice.fingerprint, namespace))


def _source_of(session: Session, row: NamedBase) -> BaseSource:
    """Say where a worker finds a base, by what its namespace says."""
    digest = files_of(session, row)
    manifest = None if digest is None else read_manifest(session, digest)
    return BaseSource(
        id=row.id,
        revision=row.revision,
        fingerprint=row.base.fingerprint,
        location=row.location,
        manifest=manifest,
        hashed=row.facts != "claimed",
        namespace=row.namespace,
    )


def version_source(session: Session, ref: str, namespace: str) -> TargetSource:
    """Where a version and its base are found. Raises NotFound, Unreadable."""
    return subject_source(session, of_version(session, find_version(session, parse_ref(ref), SYSTEM)), namespace)


def subject_source(session: Session, subject: Subject, namespace: str) -> TargetSource:
    """Where an adapter and its base are found. Raises NotFound, Unreadable."""
    rendering = (None if subject.use is None else subject.use.rendering) or Rendering()
    return TargetSource(
        label=subject.ref,
        digest=subject.digest,
        manifest=read_manifest(session, subject.digest),
        base=_source_of(session, find_base(session, subject.fingerprint, namespace)),
        quantization=subject.recipe,
        template_date=rendering.template_date,
        stop_ids=rendering.stop_ids,
        labels=None if subject.use is None else subject.use.labels,
    )


def bare_base_source(session: Session, choice: BaseChoice, namespace: str) -> TargetSource:
    """Where a base that is itself the target is found. Raises NotFound."""
    base = base_source(session, choice, namespace)
    return TargetSource(label=f"base:{choice.id}", digest=None, manifest=None, base=base, quantization=None)
