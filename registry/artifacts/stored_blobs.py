"""What is kept about stored blobs, who may rely on them, and the lock between those who do and those who remove blobs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from sqlalchemy import bindparam, exists, select, text
from sqlalchemy.orm import Session

from registry.artifacts.models import Blob, ManifestAccess, ManifestBlob
from registry.db.statements import connection_of
from registry.principal import Principal

STORED = Blob.collected_at.is_(None)

#: Stored blobs, and whether they belong to the files of a version or base that is open to anybody, or to `spaces`.
_OPEN = exists().where(
    ManifestBlob.sha256 == Blob.sha256, ManifestAccess.manifest_digest == ManifestBlob.manifest_digest
)
_WANTED = (Blob.sha256.in_(bindparam("wanted", expanding=True)), STORED)
_KEPT = (Blob.sha256, Blob.stored_as, Blob.size_bytes)
_WITH_ANY_ACCESS = select(*_KEPT, _OPEN).where(*_WANTED)
_WITH_ACCESS = select(*_KEPT, _OPEN.where(ManifestAccess.namespace.in_(bindparam("spaces", expanding=True)))).where(
    *_WANTED
)

#: Which of these blobs a caller may read in addition to those of versions and bases, by their digests.
Readable = Callable[[Session, Collection[str], Principal], Collection[str]]


#: Those who are about to name stored blobs hold it shared, those who remove blobs hold it exclusively.
_BLOBS_LOCK = 0x61646170626C6F62
#: The first key of the locks of manifests; the second is from a manifest's digest.
_MANIFESTS = 0x6D616E69


class Stored(NamedTuple):
    """What is kept about a stored blob, and whether the caller may read it."""

    sha256: str
    stored_as: str
    size_bytes: int
    readable: bool


def find_stored(
    session: Session, wanted: Collection[str], who: Principal, readable: Sequence[Readable] = ()
) -> dict[str, Stored]:
    """Those of these blobs that are stored."""
    spaces = who.spaces()
    said = {"wanted": list(wanted)} if spaces is None else {"wanted": list(wanted), "spaces": spaces}
    query = _WITH_ANY_ACCESS if spaces is None else _WITH_ACCESS
    found = {row.sha256: Stored(*row) for row in connection_of(session).execute(query, said)}
    for also in readable:
        if left := [sha256 for sha256, row in found.items() if not row.readable]:
            found |= {sha256: found[sha256]._replace(readable=True) for sha256 in also(session, left, who)}
    return found


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
