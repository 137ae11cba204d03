"""What the registry knows of bytes that become a version under another name too: their past.

It is the record of a version that the caller may read, taken from the database: the recipe, the datasets, the training and its
figures, and what that was made from. Nothing is read from a folder.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, undefer

from registry.catalog.models import LIVE_ROWS, Adapter, Origin, ServedProbeRow, Version, VersionParent
from registry.catalog.publishing.new_version import NewVersion, ParentEdge, Past
from registry.catalog.versions.finding import exact_ref
from registry.catalog.versions.lifecycle import VersionState
from registry.catalog.versions.origins import first_origins
from registry.db.statements import append
from registry.db.stored_json import read_stored
from registry.db.types import utc_now
from registry.errors import Unreadable
from registry.usage.charging import charge
from sdk.schemas.catalog import Publication
from sdk.schemas.lora_config import QuantizationRecipe
from sdk.schemas.training_report import DatasetUse

#: The relation of a version to the one whose past it has.
COPIED = "copied-from"
#: The states of versions that may be copied.
_SHOWN = (VersionState.READY, VersionState.ARCHIVED)


def find_past(session: Session, new: NewVersion) -> Past | None:
    """Return the past of what is pushed: that of the oldest version of the same bytes which a job made and the caller may read.

    What others have only said about their bytes is no past. None if there is no such version, or if whoever pushes says how the
    bytes came to be.
    """
    if new.job is not None or new.publication.training is not None or new.publication.dataset is not None:
        return None
    made = select(Origin.pk).where(Origin.version_pk == Version.pk, Origin.job.is_not(None))
    of = select(Version).join(Adapter, Adapter.pk == Version.adapter_pk)
    same = of.where(Version.digest == new.digest, Version.state.in_(_SHOWN), made.exists())
    version = session.scalars(same.where(new.who.within(Adapter.namespace)).order_by(Version.pk).limit(1)).first()
    if version is None or version.adapter.name == new.publication.adapter:
        return None
    try:
        return past_of(session, version)
    except Unreadable:
        # Another release has written it: the push is none the worse for that.
        return None


def past_of(session: Session, version: Version) -> Past:
    """Return the past of a version, as a copy of it has it. Raises Unreadable."""
    origin = session.scalars(select(Origin).where(Origin.pk.in_(first_origins([version.pk])))).one()
    ref = exact_ref(version)

    def stored(kind: Any, value: Any) -> Any:
        return None if value is None else read_stored(kind, value, of=ref)

    record: dict[str, Any] = {
        "method": version.method,
        "quantization": stored(QuantizationRecipe, version.quantization),
        "unknown": version.unknown,
        "dataset": stored(DatasetUse, origin.dataset),
        "training": origin.training,
        "metrics": origin.metrics,
        "libraries": origin.libraries,
    }
    edges = select(VersionParent).where(VersionParent.version_pk == version.pk).order_by(VersionParent.parent_pk)
    parents = [ParentEdge(edge.parent_pk, edge.relation, edge.weight) for edge in session.scalars(edges)]
    # A copy of a copy: what the first one was copied from is found from there.
    own = [edge for edge in parents if edge.relation != COPIED]
    return Past(version.pk, ref, record, origin.reported, [*own, ParentEdge(version.pk, COPIED, None)])


def with_past(publication: Publication, past: Past) -> Publication:
    """Return a publication that says what is recorded of the version that it copies."""
    return publication.model_copy(update=past.record)


def copy_answers(session: Session, past: Past, *, adapter: str, digest: str) -> None:
    """Let a copy that was just made have the record of what the version answers to fixed prompts: it is the same bytes."""
    made = select(Version).join(Adapter, Adapter.pk == Version.adapter_pk)
    copy = session.scalars(made.where(Adapter.name == adapter, Version.digest == digest, LIVE_ROWS)).one()
    query = (
        select(ServedProbeRow)
        .where(ServedProbeRow.version_pk == past.version_pk)
        .options(undefer(ServedProbeRow.probe))
    )
    row = session.scalars(query.order_by(ServedProbeRow.standing, ServedProbeRow.pk).limit(1)).first()
    if row is None:
        return
    same = ("owner", "standing", "probe", "created_by", "record_bytes")
    values = {name: getattr(row, name) for name in same}
    append(session, ServedProbeRow, {"version_pk": copy.pk, "created_at": utc_now(), **values})
    charge(session, copy.adapter.namespace, records=row.record_bytes)
