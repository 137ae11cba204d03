"""Finding a namespace's limits, and holding what is to be added against them."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import bindparam, select, text
from sqlalchemy.orm import Session

from registry.auth.principal import EVERYWHERE
from registry.db import connection_of
from registry.errors import QuotaExceeded
from registry.quotas.models import Quota

_COLUMNS = (Quota.max_adapters, Quota.max_bytes, Quota.max_jobs)
_KNOWN = select(Quota.namespace, *_COLUMNS).where(Quota.namespace.in_((bindparam("namespace"), EVERYWHERE)))
_OWN = select(*_COLUMNS).where(Quota.namespace == bindparam("namespace")).with_for_update()
#: What a namespace without limits of its own is locked by, beside a hash of its name.
_LOCK = 0x71756F74


class Limits(NamedTuple):
    """How much a namespace may have; None: as much as it likes."""

    max_adapters: int | None
    max_bytes: int | None
    max_jobs: int | None


def limits_of(session: Session, namespace: str) -> Limits | None:
    """Return the limits of a namespace, or else those of all, locked so that no two fill the last place at once.

    The lock ends with the transaction; on SQLite that is the only one that writes.
    """
    connection, said = connection_of(session), {"namespace": namespace}
    known = {row.namespace: row for row in connection.execute(_KNOWN, said)}
    if namespace in known:
        own = connection.execute(_OWN, said).first()
        return None if own is None else Limits(*own)
    if EVERYWHERE in known and connection.dialect.name == "postgresql":
        # One row for all would let no two namespaces go on at once.
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock, hashtext(:namespace))"), {"lock": _LOCK, **said})
    given = known.get(EVERYWHERE)
    return None if given is None else Limits(given.max_adapters, given.max_bytes, given.max_jobs)


def require_room(namespace: str, what: str, used: int, adding: int, limit: int) -> None:
    """Raise QuotaExceeded where `used` and `adding` are more than `limit`."""
    if used + adding > limit:
        raise QuotaExceeded(
            f"the namespace {namespace!r} has {used} of {limit} {what} and may not have {adding} more; "
            "remove some, or ask an admin to raise the quota: adapterctl quota set"
        )
