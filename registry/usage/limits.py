"""Finds a namespace's limits, and checks new jobs against them."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import bindparam, select, text
from sqlalchemy.orm import Session

from registry.db.database import Database
from registry.db.statements import connection_of
from registry.errors import QuotaExceeded
from registry.principal import EVERYWHERE
from registry.usage.models import Quota

_LIMITS = (Quota.max_adapters, Quota.max_bytes, Quota.max_jobs, Quota.max_record_bytes)
_KNOWN = select(Quota.namespace, *_LIMITS).where(Quota.namespace.in_((bindparam("namespace"), EVERYWHERE)))
#: The lock of a namespace that submits jobs, together with a hash of its name.
_LOCK = 0x71756F74
#: The key under which a session has the limits of namespaces for which nobody has set any.
_DEFAULT = "default limits"


class Limits(NamedTuple):
    """How much a namespace may have; None: no limit."""

    max_adapters: int | None = None
    max_bytes: int | None = None
    max_jobs: int | None = None
    max_record_bytes: int | None = None


def limit_by_default(db: Database, limits: Limits) -> None:
    """From now on, let these limits apply with this database to each namespace for which nobody has set any."""
    db.session_info[_DEFAULT] = limits


def limits_of(session: Session, namespace: str) -> Limits:
    """Return the limits of a namespace: its own, or else those that an admin has set for all, or else the default ones.

    Things that are published for all have none.
    """
    if namespace == EVERYWHERE:
        return Limits()
    rows = connection_of(session).execute(_KNOWN, {"namespace": namespace})
    known = {row.namespace: Limits(*row[1:]) for row in rows}
    return known.get(namespace) or known.get(EVERYWHERE) or default_limits(session)


def default_limits(session: Session) -> Limits:
    """Return the limits that apply if nobody has set any."""
    limits: Limits = session.info.get(_DEFAULT, Limits())
    return limits


def submit_alone(session: Session, namespace: str) -> None:
    """Let nobody else who calls this add jobs to the namespace until the transaction ends.

    On SQLite a transaction that writes is exclusive anyway.
    """
    connection = connection_of(session)
    if connection.dialect.name == "postgresql":
        said = {"lock": _LOCK, "namespace": namespace}
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock, hashtext(:namespace))"), said)


def require_room(namespace: str, what: str, used: int, adding: int, limit: int) -> None:
    """Raise QuotaExceeded if `used` plus `adding` is more than `limit`; `what` says what is counted."""
    if used + adding > limit:
        named = "" if namespace == "-" else f" {namespace}"
        raise QuotaExceeded(
            f"the namespace {namespace!r} has {used} of {limit} {what} and may not have {adding} more; "
            f"remove some (adapterctl quota show{named}), or ask an admin to raise the quota: adapterctl quota set{named}"
        )
