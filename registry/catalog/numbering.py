"""An adapter's counters: the number last given, what `latest` names, how much there is.

They are changed only together with a version's state, in one transaction that holds the lock of the adapter's row.
"""

from __future__ import annotations

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from registry.artifacts.models import ManifestRow
from registry.catalog.lifecycle import VersionState
from registry.catalog.models import Adapter, Version
from registry.db import put, utc_now
from registry.quotas.limits import limits_of, require_room

#: By itself, since a unit of work would first look for what else there is to write.
_COUNT = update(Adapter).where(Adapter.pk == bindparam("adapter"))


def give_number(session: Session, version: Version, size_bytes: int) -> int:
    """Give a version that becomes ready its number: the next one, for ever. The caller holds the adapter's lock.

    Raises QuotaExceeded.
    """
    adapter = version.adapter
    _require_room(session, adapter, size_bytes)
    version.number, version.moved_at = adapter.last_number + 1, utc_now()
    counted = {
        "last_number": version.number,
        "latest_number": version.number,
        "ready_versions": adapter.ready_versions + 1,
        "size_bytes": adapter.size_bytes + size_bytes,
        "updated_at": version.moved_at,
    }
    session.connection().execute(_COUNT, {"adapter": adapter.pk, **counted})
    for name, value in counted.items():
        set_committed_value(adapter, name, value)
    put(session, version)
    return version.number


def require_room_for_kept(session: Session, version: Version) -> None:
    """Hold a version that was just put in quarantine against the quota; its adapter is locked. Raises QuotaExceeded."""
    _require_room(session, version.adapter, 0)


def recount(session: Session, adapter: Adapter, *, freed_bytes: int = 0) -> None:
    """Bring the counters up to date after a version left or came back. The caller holds the adapter's lock."""
    session.flush()
    ready = (Version.adapter_pk == adapter.pk, Version.state == VersionState.READY)
    adapter.latest_number = session.scalar(select(func.max(Version.number)).where(*ready))
    adapter.ready_versions = session.scalar(select(func.count()).select_from(Version).where(*ready)) or 0
    adapter.size_bytes -= freed_bytes
    adapter.updated_at = utc_now()
    session.flush()


def _require_room(session: Session, adapter: Adapter, size_bytes: int) -> None:
    limits = limits_of(session, adapter.namespace)
    if limits is None:
        return
    named = (Adapter.namespace == adapter.namespace, Adapter.last_number > 0)
    if limits.max_adapters is not None and adapter.last_number == 0:
        there = session.scalar(select(func.count()).select_from(Adapter).where(*named)) or 0
        require_room(adapter.namespace, "adapters", there, 1, limits.max_adapters)
    if limits.max_bytes is not None:
        used = session.scalar(select(func.coalesce(func.sum(Adapter.size_bytes), 0)).where(*named)) or 0
        # What is in quarantine takes room, and has no number by which an adapter would count it.
        kept = (
            select(func.coalesce(func.sum(ManifestRow.size_bytes), 0))
            .join(Version, Version.digest == ManifestRow.digest)
            .join(Adapter, Adapter.pk == Version.adapter_pk)
            .where(Adapter.namespace == adapter.namespace, Version.state == VersionState.QUARANTINED)
        )
        used += session.scalar(kept) or 0
        require_room(adapter.namespace, "bytes", int(used), size_bytes, limits.max_bytes)
