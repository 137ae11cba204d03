"""What is kept about stored blobs, and who may rely on them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from sqlalchemy import bindparam, exists, select
from sqlalchemy.orm import Session

from registry.artifacts.models import Blob, ManifestAccess, ManifestBlob
from registry.db.transactions import connection_of
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
