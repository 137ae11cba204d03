"""Which rows chose a version: by the looks of its training, or by the sweep that it won. They flatter it."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.catalog.models import Adapter, Origin, Version, VersionParent
from registry.catalog.versions.origins import MOST_ORIGINS
from registry.db.stored_json import table
from registry.promotion.shared_rows import ReadRows
from registry.promotion.tries import chosen_by, looked_at
from sdk.schemas.version_records import TrainingRecord

#: How many of the versions that a version came from are looked at.
_MOST_VERSIONS = 1000


def choosers_of(session: Session, digest: str, namespace: str) -> list[ReadRows]:
    """Return the datasets by whose rows a version was chosen, or one that it came from, sorted.

    The same bytes under another name of the namespace are the same version: what was pulled and pushed again does not forget
    how it was chosen.
    """
    digests, pks = _came_from(session, digest, namespace)
    found = {ReadRows(one.dataset, one.columns) for one in chosen_by(session, namespace, digests)}
    found |= set(_by_records(session, pks))
    return sorted(found, key=lambda one: (one.dataset, one.columns or ""))


def _came_from(session: Session, digest: str, namespace: str) -> tuple[set[str], set[int]]:
    """The digests and keys of all versions of a namespace with these bytes, and of those that they came from."""
    here = select(Version.pk, Version.digest).join(Adapter, Adapter.pk == Version.adapter_pk)
    wanted = dict(session.execute(here.where(Version.digest == digest, Adapter.namespace == namespace)).all())
    digests, pks = {digest}, set[int]()
    while wanted and len(pks) < _MOST_VERSIONS:
        pks |= wanted.keys()
        digests |= set(wanted.values())
        parents = select(VersionParent.parent_pk).where(VersionParent.version_pk.in_(sorted(wanted)))
        above = select(Version.pk, Version.digest).where(Version.pk.in_(parents), Version.pk.not_in(sorted(pks)))
        wanted = dict(session.execute(above).all())
    return digests, pks


def _by_records(session: Session, pks: Iterable[int]) -> Iterable[ReadRows]:
    """The datasets of trainings that an earlier release has kept, which noted no tries."""
    origins = select(Origin.dataset_digest, Origin.training).where(Origin.version_pk.in_(sorted(pks)))
    rows = session.execute(origins.where(Origin.dataset_digest.is_not(None)).order_by(Origin.pk).limit(MOST_ORIGINS))
    for dataset, training in rows:
        record = TrainingRecord.read(table(training))
        for digest, how in looked_at(record, [dataset]):
            if how == "chosen":
                yield ReadRows(digest, record.columns)
