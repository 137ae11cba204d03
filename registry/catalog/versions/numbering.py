"""An adapter's counters: the last number given, what `latest` names, how much there is.

They are changed only together with a version's state, in one transaction that holds the lock of the adapter's row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.orm import Session

from registry.catalog.models import Adapter, Version
from registry.catalog.versions.kinds import require_name_of_kind, require_one_kind
from registry.catalog.versions.lifecycle import VersionState
from registry.db.database import Database
from registry.db.statements import connection_of, put
from registry.db.types import utc_now
from registry.usage.charging import charge


class Counters(NamedTuple):
    """The counters of an adapter whose lock is held."""

    adapter_pk: int
    namespace: str
    last_number: int
    ready_versions: int
    size_bytes: int
    #: Of what kind its versions are; None if it had none when this was read.
    kind: str | None


#: The key under which a session has who follows what becomes of versions.
_FOLLOWER = "follower of versions"


def follow_versions(db: Database, changed: Callable[[Session, int, str], None]) -> None:
    """From now on, let `changed` hear of each adapter of which the ready versions with scores may have changed, in the same
    transaction: of its key and its namespace.
    """
    db.session_info[_FOLLOWER] = changed


def _tell(session: Session, adapter_pk: int, namespace: str) -> None:
    if (changed := session.info.get(_FOLLOWER)) is not None:
        changed(session, adapter_pk, namespace)


#: The last version keeps its row, whatever happens to it.
_KIND = select(Version.kind).where(Version.adapter_pk == Adapter.pk, Version.number == Adapter.last_number)
_COUNTERS = (
    Adapter.pk,
    Adapter.namespace,
    Adapter.last_number,
    Adapter.ready_versions,
    Adapter.size_bytes,
    _KIND.correlate(Adapter).scalar_subquery(),
)
#: On PostgreSQL the row is locked, but not against rows that refer to it; on SQLite the transaction is the only writer
#: anyway.
_LOCKED = select(*_COUNTERS).where(Adapter.name == bindparam("name")).with_for_update(key_share=True)
#: A statement of its own, because a unit of work would first look for other things to write.
_COUNT = update(Adapter).where(Adapter.pk == bindparam("adapter"))


def lock_counters(session: Session, name: str) -> Counters | None:
    """Return the counters of the adapter `name`; nobody else can change anything about it until the transaction
    ends.
    """
    row = connection_of(session).execute(_LOCKED, {"name": name}).first()
    return None if row is None else Counters(*row)


def require_kind(session: Session, counters: Counters, name: str, kind: str) -> None:
    """Raise Conflict for a name whose versions are of another kind; its adapter's lock is held."""
    if counters.kind is None and counters.last_number:
        # PostgreSQL waited for the lock, but looked for a version in the state before that.
        require_name_of_kind(session, name, kind)
    else:
        require_one_kind(name, counters.kind, kind)


def give_number(
    session: Session, version: Version, counters: Counters, name: str, size_bytes: int, *, scored: bool = True
) -> int:
    """Give a version that becomes ready the next number, which it keeps for ever, and write it.

    A name without versions until now is counted. The version's bytes are not: in quarantine they were counted already.
    Nobody hears of it if its bytes have no scores, as far as `scored` says. Raises Conflict for a name whose versions are
    of another kind.
    """
    require_kind(session, counters, name, version.kind)
    if counters.last_number == 0:
        charge(session, counters.namespace, adapters=1)
    version.number, version.moved_at = counters.last_number + 1, utc_now()
    counted = {
        "last_number": version.number,
        "latest_number": version.number,
        "ready_versions": counters.ready_versions + 1,
        "size_bytes": counters.size_bytes + size_bytes,
        "updated_at": version.moved_at,
    }
    connection_of(session).execute(_COUNT, {"adapter": counters.adapter_pk, **counted})
    put(session, version)
    if scored:
        _tell(session, counters.adapter_pk, counters.namespace)
    return version.number


def recount(session: Session, adapter: Adapter, *, freed_bytes: int = 0) -> None:
    """Bring the counters up to date after a version was hidden, removed or restored. The caller holds the adapter's
    lock.
    """
    session.flush()
    ready = (Version.adapter_pk == adapter.pk, Version.state == VersionState.READY)
    adapter.latest_number = session.scalar(select(func.max(Version.number)).where(*ready))
    adapter.ready_versions = session.scalar(select(func.count()).select_from(Version).where(*ready)) or 0
    adapter.size_bytes -= freed_bytes
    adapter.updated_at = utc_now()
    session.flush()
    _tell(session, adapter.pk, adapter.namespace)
