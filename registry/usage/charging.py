"""What counts towards a namespace's quotas: one row of sums, which each transaction changes last; and its limits.

How much of the database a row takes is kept with the row, so that what is charged, given back and counted again is the
same number.

>>> record_bytes({"lr": 0.1}, None, "café")
216
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Insert, bindparam, event, select, text
from sqlalchemy.orm import Session

from registry.db.database import Database
from registry.db.statements import connection_of, native_insert
from registry.errors import QuotaExceeded
from registry.principal import EVERYWHERE
from registry.usage.models import Quota, Usage

_LIMITS = (Quota.max_adapters, Quota.max_bytes, Quota.max_jobs, Quota.max_record_bytes)
_KNOWN = select(Quota.namespace, *_LIMITS).where(Quota.namespace.in_((bindparam("namespace"), EVERYWHERE)))
#: The lock of a namespace that submits jobs, together with a hash of its name.
_LOCK = 0x71756F74
#: The key under which a session has the limits of namespaces for which nobody has set any.
_DEFAULT = "default limits"


#: The kinds of bytes that count for a namespace, and what each is called in sentences.
BYTES = {
    "versions_bytes": "versions",
    "datasets_bytes": "datasets",
    "bases_bytes": "bases",
    "merged_bytes": "merged models",
    "checkpoints_bytes": "checkpoints",
    "evaluations_bytes": "scores by row",
    "reserved_bytes": "uploads under way",
}
#: The column that counts rows in the database; it has a limit of its own.
RECORDS = "records_bytes"
COUNTED = ("adapters", *BYTES, RECORDS)
#: The same, by what `charge` calls them.
_CHARGED = {name.removesuffix("_bytes"): name for name in COUNTED}
#: The key under which a session keeps what it will charge.
_PENDING = "charges"
#: The key under which it keeps what is written before them.
_BEFORE = "before charges"
#: What a row takes beside its JSON and its texts: keys, times, indexes.
ROW_BYTES = 200


class NamespaceLimits(NamedTuple):
    """How much a namespace may have; None: no limit."""

    max_adapters: int | None = None
    max_bytes: int | None = None
    max_jobs: int | None = None
    max_record_bytes: int | None = None


def limit_by_default(db: Database, limits: NamespaceLimits) -> None:
    """From now on, let these limits apply with this database to each namespace for which nobody has set any."""
    db.session_info[_DEFAULT] = limits


def limits_of(session: Session, namespace: str) -> NamespaceLimits:
    """Return the limits of a namespace: its own, or else those that an admin has set for all, or else the default ones.

    Things that are published for all have none.
    """
    if namespace == EVERYWHERE:
        return NamespaceLimits()
    rows = connection_of(session).execute(_KNOWN, {"namespace": namespace})
    known = {row.namespace: NamespaceLimits(*row[1:]) for row in rows}
    return known.get(namespace) or known.get(EVERYWHERE) or default_limits(session)


def default_limits(session: Session) -> NamespaceLimits:
    """Return the limits that apply if nobody has set any."""
    limits: NamespaceLimits = session.info.get(_DEFAULT, NamespaceLimits())
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


def charge(session: Session, namespace: str, **added: int) -> None:
    """Count this many more `adapters`, and bytes of each kind (`versions`, `merged`, `records` …), for a namespace; fewer if
    less than 0. `records` are bytes
    in the database, as `record_bytes` measures them.

    The row is changed by one statement right before the commit, because all others who change anything there wait for
    it until the transaction ends. If a namespace would grow beyond its limits, the commit raises QuotaExceeded, and
    nothing of the transaction is kept. One kind may grow by what another loses.
    """
    pending = _pending_of(session)
    charged = pending.setdefault(namespace, dict.fromkeys(COUNTED, 0))
    for name, count in added.items():
        charged[_CHARGED[name]] += count


def before_charges(session: Session, write: Callable[[Session], None]) -> None:
    """Let `write` be called right before the commit and before the charges, once for each call of this.

    It is for rows for which others wait while they hold what this transaction has already, and which are held by those
    who charge afterwards.
    """
    _pending_of(session)
    session.info[_BEFORE].append(write)


def _pending_of(session: Session) -> dict[str, dict[str, int]]:
    pending: dict[str, dict[str, int]] | None = session.info.get(_PENDING)
    if pending is None:
        pending = session.info[_PENDING] = {}
        session.info[_BEFORE] = []
        # Before other listeners, so that every transaction takes such locks in the same order.
        event.listen(session, "before_commit", _write, insert=True)
    return pending


def has_room_for_records(session: Session, namespace: str, size_bytes: int) -> bool:
    """Whether a namespace has room in the database for what can be left out; the last hundredth is for what can't."""
    most = limits_of(session, namespace).max_record_bytes
    if most is None:
        return True
    used = session.scalar(select(Usage.records_bytes).where(Usage.namespace == namespace)) or 0
    return used + size_bytes <= most - most // 100


def _write(session: Session) -> None:
    """Charge what this transaction has gathered, namespace by namespace in the order of their names."""
    session.flush()
    for write in session.info[_BEFORE]:
        write(session)
    session.info[_BEFORE].clear()
    pending: dict[str, dict[str, int]] = session.info[_PENDING]
    for namespace, charged in sorted(pending.items()):
        if any(charged.values()):
            _charge(session, namespace, charged)
    pending.clear()


def _charge(session: Session, namespace: str, charged: dict[str, int]) -> None:
    connection = connection_of(session)
    added = sum(charged[name] for name in BYTES)
    grows = charged["adapters"] > 0 or added > 0 or charged[RECORDS] > 0
    limits = limits_of(session, namespace) if grows else None
    row = connection.execute(_statement(connection.dialect.name), {"namespace": namespace, **charged}).one()
    if limits is None:
        return
    if charged["adapters"] > 0 and limits.max_adapters is not None:
        there = row.adapters - charged["adapters"]
        require_room(namespace, "adapters", there, charged["adapters"], limits.max_adapters)
    if added > 0 and limits.max_bytes is not None:
        before = {name: getattr(row, name) - charged[name] for name in BYTES}
        require_room(namespace, f"bytes{_by_kind(before)}", sum(before.values()), added, limits.max_bytes)
    if charged[RECORDS] > 0 and limits.max_record_bytes is not None:
        there = row.records_bytes - charged[RECORDS]
        require_room(namespace, "bytes of records in the database", there, charged[RECORDS], limits.max_record_bytes)


def _by_kind(used: dict[str, int]) -> str:
    kinds = ", ".join(f"{BYTES[name]} {size_bytes}" for name, size_bytes in used.items() if size_bytes)
    return f" ({kinds})" if kinds else ""


@cache
def _statement(dialect: str) -> Insert:
    """Add to a namespace's row, or create it, in one statement that returns the new sums."""
    names = ("namespace", *COUNTED)
    new = native_insert(dialect, Usage).values({name: bindparam(name) for name in names})
    sums = {name: getattr(Usage, name) + new.excluded[name] for name in COUNTED}
    made: Insert = new.on_conflict_do_update(index_elements=["namespace"], set_=sums)
    return made.returning(*(getattr(Usage, name) for name in COUNTED))


def record_bytes(*values: Any) -> int:
    """Return how many bytes of the database a row with these values takes: JSON as it is written, a text as UTF-8,
    bytes as they are; None takes nothing.
    """
    return ROW_BYTES + sum(_length(value) for value in values)


def _length(value: Any) -> int:
    if value is None:
        return 0
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, str):
        return len(value.encode(errors="surrogatepass"))
    # Only ASCII, as the columns are written.
    return len(json.dumps(value))
