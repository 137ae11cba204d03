"""The table of counters: sums that outlive the server processes and the rows that they were counted from."""

from __future__ import annotations

import json
from functools import cache

from sqlalchemy import Float, Insert, String, event
from sqlalchemy.orm import Mapped, Session, mapped_column

from registry.db.statements import connection_of, native_insert
from registry.db.types import Model

#: Upper bounds of the histogram of durations, in seconds; what took longer is only in "+Inf".
BUCKETS_S = (5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14_400.0, 28_800.0, 86_400.0)

#: The key under which a session keeps what it will add.
_PENDING = "counters"


class Counter(Model):
    """One sum."""

    __tablename__ = "job_counters"

    name: Mapped[str] = mapped_column(String(60), primary_key=True)
    #: Labels as canonical JSON.
    labels: Mapped[str] = mapped_column(String(200), primary_key=True)
    value: Mapped[float] = mapped_column(Float)


def count(session: Session, name: str, value: float = 1.0, **labels: str) -> None:
    """Add to a counter, in the transaction that does what is counted.

    All that a transaction adds is written in a fixed order right before its commit: a row that everybody adds to is
    locked no longer than necessary, and no two transactions wait for each other.
    """
    pending: dict[tuple[str, str], float] | None = session.info.get(_PENDING)
    if pending is None:
        pending = session.info[_PENDING] = {}
        event.listen(session, "before_commit", _write)
    key = (name, json.dumps(labels, sort_keys=True))
    pending[key] = pending.get(key, 0.0) + value


def count_duration(session: Session, kind: str, seconds: float) -> None:
    """Add a job's duration to the histogram of its kind."""
    upper = next((str(end) for end in BUCKETS_S if seconds <= end), "+Inf")
    count(session, "duration_bucket", kind=kind, le=upper)
    count(session, "duration_sum", seconds, kind=kind)


def _write(session: Session) -> None:
    pending: dict[tuple[str, str], float] = session.info[_PENDING]
    session.flush()
    connection = connection_of(session)
    # One after the other: the database locks the rows of one INSERT in an order of its own.
    for (name, labels), value in sorted(pending.items()):
        connection.execute(_add(connection.dialect.name), {"name": name, "labels": labels, "value": value})
    pending.clear()


@cache
def _add(dialect: str) -> Insert:
    """Add to a counter, or create it."""
    new = native_insert(dialect, Counter)
    added = {"value": Counter.value + new.excluded.value}
    made: Insert = new.on_conflict_do_update(index_elements=["name", "labels"], set_=added)
    return made
