"""The lock between those who begin to rely on blobs that are stored and those who remove blobs."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.orm import Session

#: Held shared by whoever is about to name blobs that are stored, and alone by whoever removes blobs.
_BLOBS_LOCK = 0x61646170626C6F62


def hold_blobs(session: Session, *, alone: bool = False) -> None:
    """Until the transaction ends, no blob is removed; with `alone`, nobody begins to rely on one either.

    On SQLite a transaction that writes is alone already.
    """
    if session.get_bind().dialect.name == "postgresql":
        function = "pg_advisory_xact_lock" if alone else "pg_advisory_xact_lock_shared"
        session.execute(text(f"SELECT {function}(:key)"), {"key": _BLOBS_LOCK})
