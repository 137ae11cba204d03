"""Finding a namespace's limits, and holding what is to be added against them."""

from __future__ import annotations

from sqlalchemy import Row, bindparam, select
from sqlalchemy.orm import Session

from registry.db import connection_of
from registry.errors import QuotaExceeded
from registry.quotas.models import Quota

_LIMITS = (
    select(Quota.max_adapters, Quota.max_bytes, Quota.max_jobs)
    .where(Quota.namespace == bindparam("namespace"))
    .with_for_update()
)


def limits_of(session: Session, namespace: str) -> Row[int | None, int | None, int | None] | None:
    """Return the limits of a namespace, locked until the transaction ends, so that no two fill the last place at once."""
    return connection_of(session).execute(_LIMITS, {"namespace": namespace}).first()


def require_room(namespace: str, what: str, used: int, adding: int, limit: int) -> None:
    """Raise QuotaExceeded where `used` and `adding` are more than `limit`."""
    if used + adding > limit:
        raise QuotaExceeded(
            f"the namespace {namespace!r} has {used} of {limit} {what} and may not have {adding} more; "
            "remove some, or ask an admin to raise the quota: adapterctl quota set"
        )
