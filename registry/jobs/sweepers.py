"""Which process sweeps, for monitoring."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from registry.db.clock import db_epoch_s
from registry.db.statements import upsert
from registry.jobs.models import Sweeper

#: A process that has not swept for this long is no longer reported, in seconds.
_FORGOTTEN_AFTER_S = 600.0


def note_sweep(session: Session, name: str, *, led: bool, alone: bool) -> None:
    """Record that a process has swept now; its lead begins now unless it has `led` before.

    If one process leads `alone`, no other does from now on. Otherwise processes that have not swept for a while are
    forgotten.
    """
    now = db_epoch_s()
    there = (
        led
        and session.execute(
            update(Sweeper).where(Sweeper.name == name).values(swept_at_s=now).returning(Sweeper.name)
        ).first()
    )
    if not there:
        upsert(session, Sweeper, {"name": name}, {"since_s": now, "swept_at_s": now})
    others = Sweeper.name != name
    silent = Sweeper.swept_at_s < now - _FORGOTTEN_AFTER_S
    session.execute(delete(Sweeper).where(others) if alone else delete(Sweeper).where(others, silent))


def sweepers(session: Session) -> Sequence[tuple[str, float, float]]:
    """The processes that sweep: name, since when, and when last, both in seconds since 1970."""
    rows = select(Sweeper.name, Sweeper.since_s, Sweeper.swept_at_s).order_by(Sweeper.name)
    return session.execute(rows).all()
