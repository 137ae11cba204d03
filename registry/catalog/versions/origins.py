"""How a version was made, each time: a job that makes the same bytes again adds a row, and the first one is the lineage.

There may be many, and each may be long. So lists and views read the first of each version alone, and what is kept of
one version is bounded: beyond that, a row says which job made it and from which dataset.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import JSON, ColumnElement, Select, Text, cast, func, literal, select
from sqlalchemy.orm import Session

from registry.catalog.models import Origin, Version
from registry.db.statements import append
from registry.db.stored_json import table
from registry.usage.charging import charge, record_bytes
from sdk.schemas.held_out import HoldoutFields

#: How many origins of one version are recorded with all details, as long as everything that is recorded of it takes no
#: more than so many bytes of the database.
MOST_ORIGINS, MOST_RECORD_BYTES = 100, 16 * 1024 * 1024
#: The longest origin that a deleted version keeps whole.
_SHORT_BYTES = 16 * 1024
#: What says which rows a training has read: needed as long as there are versions that were made from this one.
READ = ("columns", *HoldoutFields.model_fields, "training_digest")
_WITHOUT_DETAILS: dict[str, Any] = {"training": None, "metrics": {}, "libraries": {}, "reported": None}


def first_origins(pks: Collection[int]) -> Select[int]:
    """The key of the first origin of each of these versions."""
    return select(func.min(Origin.pk)).where(Origin.version_pk.in_(pks)).group_by(Origin.version_pk)


def size_of(origin: Mapping[str, Any]) -> int:
    """What an origin takes in the database, in bytes."""
    return record_bytes(*(origin[name] for name in ("dataset", *_WITHOUT_DETAILS)))


def add_origin(session: Session, version: Version, origin: dict[str, Any]) -> None:
    """Record that the bytes of a version were made again, and count that in its namespace; its adapter is locked.

    What is recorded already, since the same publication was sent again, is not recorded twice.
    """
    if is_recorded(session, origin):
        return
    earlier = select(Origin.pk).where(Origin.version_pk == version.pk).limit(MOST_ORIGINS).subquery()
    is_many = (session.scalar(select(func.count()).select_from(earlier)) or 0) >= MOST_ORIGINS
    if is_many or version.record_bytes + size_of(origin) > MOST_RECORD_BYTES:
        origin = origin | _WITHOUT_DETAILS
        if is_recorded(session, origin):
            return
    append(session, Origin, origin)
    _count(session, version, size_of(origin))


def is_recorded(session: Session, origin: Mapping[str, Any]) -> bool:
    """Whether a version has a row with just these values."""
    columns = Origin.__table__.columns
    same: list[ColumnElement[bool]] = []
    for name, value in origin.items():
        column = columns[name]
        if isinstance(column.type, JSON):
            same.append(cast(column, Text) == cast(literal(value, column.type), Text))
        else:
            same.append(column.is_(None) if value is None else column == value)
    return session.scalar(select(Origin.pk).where(*same).limit(1)) is not None


def shorten_origins(session: Session, version: Version) -> None:
    """Remove the long parts of how a deleted version was made, except for which rows it was trained on."""
    rows = select(Origin).where(Origin.version_pk == version.pk).order_by(Origin.pk).limit(MOST_ORIGINS)
    for origin in session.scalars(rows):
        before = size_of(origin.__dict__)
        if before <= _SHORT_BYTES:
            continue
        training = {name: value for name, value in table(origin.training).items() if name in READ}
        origin.training = training if record_bytes(training) <= _SHORT_BYTES else None
        origin.metrics, origin.libraries, origin.reported = {}, {}, None
        _count(session, version, size_of(origin.__dict__) - before)


def _count(session: Session, version: Version, more_bytes: int) -> None:
    version.record_bytes += more_bytes
    charge(session, version.adapter.namespace, records=more_bytes)
