"""Where a worker finds the things that a job was pinned to."""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.artifacts.manifests import read_manifest
from registry.catalog.bases.finding import find_base, source_of
from registry.catalog.models import Origin, Version
from registry.catalog.versions.finding import exact_ref, find_version, parse_ref
from registry.catalog.versions.norms import recipe_of
from registry.db.stored_json import salvage
from registry.principal import SYSTEM
from sdk.schemas.job_requests import BaseChoice
from sdk.schemas.recorded import Rendering
from sdk.schemas.training_report import DatasetUse
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
    return source_of(session, find_base(session, choice.fingerprint, namespace))


def version_source(session: Session, ref: str, namespace: str) -> TargetSource:
    """Where a version and its base are found. Raises NotFound, Unreadable."""
    version = find_version(session, parse_ref(ref), SYSTEM)
    use = dataset_use(session, version)
    rendering = (None if use is None else use.rendering) or Rendering()
    return TargetSource(
        label=exact_ref(version),
        digest=version.digest,
        manifest=read_manifest(session, version.digest),
        base=source_of(session, find_base(session, version.base.fingerprint, namespace)),
        quantization=recipe_of(version),
        template_date=rendering.template_date,
        stop_ids=rendering.stop_ids,
        labels=None if use is None else use.labels,
    )


def dataset_use(session: Session, version: Version) -> DatasetUse | None:
    """Return how a version's training used its dataset; None if nobody said."""
    first = select(Origin.dataset).where(Origin.version_pk == version.pk).order_by(Origin.pk).limit(1)
    stored = session.scalars(first).first()
    return None if stored is None else salvage(DatasetUse, stored)[0]


def bare_base_source(session: Session, choice: BaseChoice, namespace: str) -> TargetSource:
    """Where a base that is itself the target is found. Raises NotFound."""
    base = base_source(session, choice, namespace)
    return TargetSource(label=f"base:{choice.id}", digest=None, manifest=None, base=base, quantization=None)
