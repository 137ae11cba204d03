"""The lock between those who begin to rely on stored blobs and those who remove blobs."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.orm import Session

#: Those who are about to name stored blobs hold it shared, those who remove blobs hold it exclusively.
_BLOBS_LOCK = 0x61646170626C6F62
#: The first key of the locks of manifests; the second is from a manifest's digest.
_MANIFESTS = 0x6D616E69


def hold_blobs(session: Session, *, alone: bool = False) -> None:
    """Let no blob be removed until the transaction ends; with `alone`, nobody begins to rely on one either.

    On SQLite a transaction that writes is exclusive anyway.
    """
    if _has_locks(session):
        function = "pg_advisory_xact_lock" if alone else "pg_advisory_xact_lock_shared"
        session.execute(text(f"SELECT {function}(:key)"), {"key": _BLOBS_LOCK})


def hold_for_manifest(session: Session, digest: str) -> None:
    """Hold the blobs, and let no namespace lose its access to the files of a manifest, until the transaction ends.

    A transaction that locks an adapter, too, calls this first.
    """
    if _has_locks(session):
        both = "SELECT pg_advisory_xact_lock_shared(:key), pg_advisory_xact_lock_shared(:of, :manifest)"
        session.execute(text(both), {"key": _BLOBS_LOCK, **_keys_of(digest)})


def hold_access(session: Session, digest: str) -> None:
    """Let nobody begin to rely on a namespace's access to the files of a manifest until the transaction ends.

    A transaction that locks an adapter, too, calls this first; for several manifests, in the order of their digests.
    """
    if _has_locks(session):
        session.execute(text("SELECT pg_advisory_xact_lock(:of, :manifest)"), _keys_of(digest))


def _has_locks(session: Session) -> bool:
    return session.get_bind().dialect.name == "postgresql"


def _keys_of(digest: str) -> dict[str, int]:
    # Two digests that share these bits only wait for each other.
    return {"of": _MANIFESTS, "manifest": int(digest[:8], 16) - 2**31}
