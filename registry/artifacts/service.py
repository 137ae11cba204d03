"""Uploads, verification of what was uploaded, manifests, and where to fetch them from.

A digest is no proof of possession: only who may read a blob already need not send it. Each upload session sends under
a name of its own, which nobody else can fill, and a blob's row says under which name its verified bytes lie.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from sqlalchemy import bindparam, exists, select, update
from sqlalchemy.orm import Session

from registry.artifacts.models import Blob, ManifestAccess, ManifestBlob, ManifestRow, Upload, UploadBlob, UploadPart
from registry.artifacts.reading import Facts, Inspection, read_blob
from registry.auth.principal import Principal
from registry.db import Database, hold_blobs, insert_if_new, upsert, utc_now
from registry.errors import Invalid, NotFound, Unavailable, Verification
from registry.storage import MAX_PARTS, Location, Storage
from registry.storage.errors import BlobCorrupt, BlobMissing, StorageError, StorageUnavailable
from sdk.schemas.artifacts import BlobSpec, InParts, PartSpec, Transfer, UploadView
from sdk.schemas.manifest import Manifest

_SESSION = timedelta(hours=24)
_STORED = Blob.collected_at.is_(None)

#: Blobs that are stored, and whether they are of the files of a version or base that is open to somebody, or to `spaces`.
_OPEN = exists().where(
    ManifestBlob.sha256 == Blob.sha256, ManifestAccess.manifest_digest == ManifestBlob.manifest_digest
)
_WANTED = (Blob.sha256.in_(bindparam("wanted", expanding=True)), _STORED)
_KEPT = (Blob.sha256, Blob.stored_as, Blob.size_bytes, Blob.facts)
_WITH_ANY_ACCESS = select(*_KEPT, _OPEN).where(*_WANTED)
_WITH_ACCESS = select(*_KEPT, _OPEN.where(ManifestAccess.namespace.in_(bindparam("spaces", expanding=True)))).where(
    *_WANTED
)

#: Which of these blobs a caller may read beside those of versions and bases, by their digests.
Readable = Callable[[Session, Collection[str], Principal], Collection[str]]


class _Stored(NamedTuple):
    """What is kept of a stored blob, and whether the caller may read it."""

    sha256: str
    stored_as: str
    size_bytes: int
    facts: dict[str, Any] | None
    readable: bool


class _Held(NamedTuple):
    """What a caller has of a blob."""

    blob: BlobSpec
    #: What is kept of it, where the caller may count on it.
    row: _Stored | None
    #: What the session announced.
    sent: UploadBlob | None


class Bytes(TypedDict):
    """What is to be sure of, and for whom: the arguments of `Artifacts.verify`."""

    upload: str | None
    blobs: list[BlobSpec]
    who: Principal
    inspections: Mapping[str, Inspection]


class Artifacts:
    """The service over blobs and manifests, and the only user of the storage."""

    def __init__(self, db: Database, storage: Storage, *, readable: Sequence[Readable] = ()) -> None:
        self._db = db
        self.storage = storage
        self._readable = readable

    # Sending.

    def begin_upload(self, *, blobs: list[BlobSpec], who: Principal) -> UploadView:
        """Open a session and say what is to be sent, and where to; until it ends, none of its blobs is removed.

        Not sent again is what the caller may read already, and what has arrived in an earlier session of the caller's
        that came to no end: that is how an interrupted upload goes on.
        """
        upload_id, place = secrets.token_hex(16), secrets.token_hex(16)
        wanted = {blob.sha256: blob for blob in blobs}
        with self._db.write() as session:
            hold_blobs(session)
            stored = self._stored(session, wanted, who)
            readable = {sha256: row.stored_as for sha256, row in stored.items() if row.readable}
            begun = _begun(session, wanted, who)
            session.add(Upload(id=upload_id, created_by=who.name, owner=owner_of(who), expires_at=utc_now() + _SESSION))
            session.flush()
            rows = []
            # What may be read now counts as sent, even where it may no longer be read when the session is used.
            begun |= {sha256: (name, None) for sha256, name in readable.items()}
            for blob in wanted.values():
                stored_as, parts_id = begun.get(blob.sha256, (f"{blob.sha256}.{place}", None))
                rows.append(
                    UploadBlob(
                        upload_id=upload_id,
                        sha256=blob.sha256,
                        size_bytes=blob.size_bytes,
                        stored_as=stored_as,
                        parts_id=parts_id,
                    )
                )
            session.add_all(rows)
        view = UploadView(id=upload_id, put=[])
        with storage_explained():
            for row in rows:
                blob = wanted[row.sha256]
                if blob.sha256 in readable or (blob.sha256 in begun and self.storage.stat(row.stored_as) is not None):
                    continue
                if self._part_bytes(blob) is not None:
                    view.parts.append(self._in_parts(row))
                else:
                    location = self.storage.put_location(row.stored_as, blob.size_bytes)
                    view.put.append(_transfer(blob.sha256, blob.size_bytes, location))
        return view

    def ask_parts(self, *, upload: str, sha256: str, parts: list[PartSpec], who: Principal) -> list[Transfer]:
        """Say where parts of an announced blob are sent to; each location takes the bytes of its digest alone.

        Raises NotFound, Invalid for a blob that is not sent in parts or a part that it does not have.
        """
        with self._db.read() as session:
            row = _announced(session, upload, who).get(sha256)
        part_bytes = None if row is None else self._part_bytes(BlobSpec(sha256=sha256, size_bytes=row.size_bytes))
        if row is None or row.parts_id is None or part_bytes is None:
            raise Invalid(f"{sha256[:12]} is not sent in parts in this session; begin the push again", param="sha256")
        found = []
        with storage_explained():
            for part in parts:
                size_bytes = min(part_bytes, row.size_bytes - (part.number - 1) * part_bytes)
                if size_bytes <= 0:
                    raise Invalid(
                        f"{sha256[:12]} has no part {part.number}; begin the push again", param="parts.number"
                    )
                location = self.storage.part_location(row.stored_as, row.parts_id, part.number, part.sha256, size_bytes)
                found.append(_transfer(part.sha256, size_bytes, location))
        with self._db.write() as session:
            for part in parts:
                key = {"stored_as": row.stored_as, "number": part.number}
                upsert(session, UploadPart, key, {"sha256": part.sha256})
        return found

    def _part_bytes(self, blob: BlobSpec) -> int | None:
        """The size of each part of a blob; None where it is sent at once."""
        usual = self.storage.part_bytes
        if usual is None or blob.size_bytes <= usual:
            return None
        # No more parts than a store takes, and whole mebibytes for people who read sizes.
        least = -(-blob.size_bytes // MAX_PARTS)
        return max(usual, -(-least // 2**20) * 2**20)

    def _in_parts(self, row: UploadBlob) -> InParts:
        blob = BlobSpec(sha256=row.sha256, size_bytes=row.size_bytes)
        part_bytes = self._part_bytes(blob) or blob.size_bytes
        sizes = _sizes(blob, part_bytes)
        sent: dict[int, int] = {}
        parts_id = row.parts_id
        if parts_id is not None:
            try:
                sent = self.storage.sent_parts(row.stored_as, parts_id)
            except BlobMissing:
                # They were swept since.
                parts_id = None
            if any(sizes.get(number) != size for number, size in sent.items()):
                # They were cut by another setting, and can't be told from those of this cut by number and size alone.
                sent, parts_id = {}, None
        if parts_id is None:
            parts_id = self.storage.begin_parts(row.stored_as)
            with self._db.write() as session:
                of = (UploadBlob.upload_id == row.upload_id, UploadBlob.sha256 == row.sha256)
                session.execute(update(UploadBlob).where(*of).values(parts_id=parts_id))
        missing = [number for number, size in sizes.items() if sent.get(number) != size]
        return InParts(sha256=blob.sha256, size_bytes=blob.size_bytes, part_bytes=part_bytes, missing=missing)

    # Verifying.

    def verify(
        self,
        *,
        upload: str | None,
        blobs: Iterable[BlobSpec],
        who: Principal,
        inspections: Mapping[str, Inspection] | None = None,
    ) -> dict[str, Facts]:
        """Stream each blob that is new once from storage, hash it, and look into those with an inspection.

        Without `upload`, every blob must be one that the caller may read. Returns what the inspections found, by
        SHA-256: now, or when the blob was new. Raises NotFound for an unknown session, Invalid for a blob that it did
        not announce, Verification where bytes or structure are wrong, Unavailable where the storage can't be read.
        """
        inspections = inspections or {}
        wanted = {blob.sha256: blob for blob in blobs}
        found: dict[str, Facts] = {}
        for held in self._held_now(upload, wanted, who):
            inspection = inspections.get(held.blob.sha256)
            try:
                facts = self._settle(held, inspection, who)
            except BlobMissing:
                # Another request of this caller has settled the same blob meanwhile, or it never arrived.
                (again,) = self._held_now(upload, {held.blob.sha256: held.blob}, who)
                try:
                    facts = self._settle(again, inspection, who)
                except BlobMissing:
                    raise Verification(
                        f"the bytes of {held.blob.sha256[:12]} never arrived in storage; push again"
                    ) from None
            if facts is not None:
                found[held.blob.sha256] = facts
        return found

    def known(
        self,
        session: Session,
        *,
        upload: str | None,
        blobs: Iterable[BlobSpec],
        who: Principal,
        inspections: Mapping[str, Inspection],
    ) -> dict[str, Facts] | None:
        """What `verify` would return, where it is known of every blob; None where bytes must be read for it.

        Raises NotFound and Invalid as it does.
        """
        found: dict[str, Facts] = {}
        for held in self._held(session, upload, {blob.sha256: blob for blob in blobs}, who):
            if held.row is None:
                return None
            if (inspection := inspections.get(held.blob.sha256)) is not None:
                facts = inspection.kind.from_json(held.row.facts)
                if facts is None:
                    return None
                found[held.blob.sha256] = facts
        return found

    def _held_now(self, upload: str | None, wanted: Mapping[str, BlobSpec], who: Principal) -> list[_Held]:
        with self._db.read() as session:
            return self._held(session, upload, wanted, who)

    def _held(
        self, session: Session, upload: str | None, wanted: Mapping[str, BlobSpec], who: Principal
    ) -> list[_Held]:
        """What the caller has of each blob. Raises NotFound, Invalid."""
        announced = {} if upload is None else _announced(session, upload, who)
        stored = self._stored(session, wanted, who)
        found = []
        for blob in wanted.values():
            row, sent = stored.get(blob.sha256), announced.get(blob.sha256)
            # Either the caller may read it, or has sent it: to this very place, from which it was verified before.
            if row is not None and not (row.readable or (sent is not None and sent.stored_as == row.stored_as)):
                row = None
            if row is None and (sent is None or sent.size_bytes != blob.size_bytes):
                raise Invalid(
                    f"{blob.sha256[:12]} was neither announced by the upload session nor is it in a version that this "
                    "token may read; begin the push again",
                    param="upload",
                )
            if row is not None and row.size_bytes != blob.size_bytes:
                raise Invalid(
                    f"{blob.sha256[:12]} is stored with another size; hash the files again", param="size_bytes"
                )
            found.append(_Held(blob, row, sent))
        return found

    def _settle(self, held: _Held, inspection: Inspection | None, who: Principal) -> Facts | None:
        """Make sure of one blob, and say what is in it. Raises BlobMissing where nothing lies in its place."""
        with storage_explained(but=BlobMissing):
            if held.row is None:
                assert held.sent is not None
                return self._take(held.blob, held.sent, inspection, who)
            if inspection is None:
                return None
            facts = inspection.kind.from_json(held.row.facts)
            if facts is None:
                facts = read_blob(self.storage, held.row.stored_as, held.blob, inspection)
                kept = None if facts is None else facts.to_json()
                with self._db.write() as session:
                    of = (Blob.sha256 == held.blob.sha256, _STORED)
                    session.execute(update(Blob).where(*of).values(facts=kept))
            return facts

    def _take(self, blob: BlobSpec, sent: UploadBlob, inspection: Inspection | None, who: Principal) -> Facts | None:
        """Read what a session has sent, and let the blob's row name it, or note that its sender has proven to have it."""
        if sent.parts_id is not None and self.storage.stat(sent.stored_as) is None:
            self._join(blob, sent.stored_as, sent.parts_id)
        try:
            facts = read_blob(self.storage, sent.stored_as, blob, inspection)
        except BlobCorrupt:
            # The name promises other bytes, so nobody can want these; unless they were read wrongly.
            self._discard(sent.stored_as, blob.sha256)
            raise
        kept_facts = None if facts is None else facts.to_json()
        values = {
            "stored_as": sent.stored_as,
            "size_bytes": blob.size_bytes,
            "facts": kept_facts,
            "collected_at": None,
        }
        with self._db.write() as session:
            # Nothing removes blobs now, so bytes that are still there stay until what they are for has a name.
            hold_blobs(session)
            insert_if_new(session, Blob, sha256=blob.sha256, **values)
            row = session.get_one(Blob, blob.sha256, with_for_update=True, populate_existing=True)
            lost = row.stored_as != sent.stored_as and self.storage.stat(row.stored_as) is None
            if row.collected_at is not None or lost:
                upsert(session, Blob, {"sha256": blob.sha256}, values)
                session.refresh(row)
            elif row.facts is None:
                row.facts = kept_facts
            kept = row.stored_as
            if self.storage.stat(kept) is None:
                raise Verification(f"{blob.sha256[:12]} was removed while it was verified; push again")
            if kept != sent.stored_as:
                # The same bytes lie elsewhere already. From now on this sender counts as having sent those.
                mine = select(Upload.id).where(Upload.owner == owner_of(who))
                same = (UploadBlob.stored_as == sent.stored_as, UploadBlob.upload_id.in_(mine))
                session.execute(update(UploadBlob).where(*same).values(stored_as=kept))
        if kept != sent.stored_as:
            self._discard(sent.stored_as, blob.sha256)
        return facts

    def _discard(self, stored_as: str, sha256: str) -> None:
        """Remove bytes, unless the blob's row names them by now: another request of the same sender may have read them."""
        with self._db.write() as session:
            hold_blobs(session, alone=True)
            row = session.get(Blob, sha256)
            if row is None or row.stored_as != stored_as:
                self.storage.delete(stored_as)

    def _join(self, blob: BlobSpec, stored_as: str, parts_id: str) -> None:
        part_bytes = self._part_bytes(blob) or blob.size_bytes
        sizes = _sizes(blob, part_bytes)
        try:
            arrived = self.storage.sent_parts(stored_as, parts_id)
            if missing := [number for number, size in sizes.items() if arrived.get(number) != size]:
                raise Verification(
                    f"{len(missing)} of {len(sizes)} parts of {blob.sha256[:12]} never arrived in storage; push again"
                )
            with self._db.read() as session:
                asked = select(UploadPart.number, UploadPart.sha256).where(UploadPart.stored_as == stored_as)
                digests = {row.number: row.sha256 for row in session.execute(asked) if row.number in sizes}
            self.storage.join_parts(stored_as, parts_id, digests)
        except BlobMissing:
            # Joined by somebody else meanwhile, or swept: the read that follows will say which.
            return

    def _stored(self, session: Session, wanted: Collection[str], who: Principal) -> dict[str, _Stored]:
        """Those of these blobs that are stored."""
        spaces = who.spaces()
        said = {"wanted": list(wanted)} if spaces is None else {"wanted": list(wanted), "spaces": spaces}
        query = _WITH_ANY_ACCESS if spaces is None else _WITH_ACCESS
        found = {row.sha256: _Stored(*row) for row in session.connection().execute(query, said)}
        for readable in self._readable:
            if left := [sha256 for sha256, row in found.items() if not row.readable]:
                found |= {sha256: found[sha256]._replace(readable=True) for sha256 in readable(session, left, who)}
        return found

    # Fetching.

    def download(self, digest: str, *, who: Principal) -> list[Transfer]:
        """Say where the files of the manifest `digest` are, each blob once. Raises NotFound."""
        access = select(ManifestAccess.manifest_digest).where(
            ManifestAccess.manifest_digest == digest, who.within(ManifestAccess.namespace)
        )
        with self._db.read() as session:
            row = session.get(ManifestRow, digest)
            allowed = session.scalars(access.limit(1)).first() is not None
            if row is None or not allowed:
                raise NotFound(f"there is no manifest {digest[:12]!a}; see what there is with: adapterctl list")
            if row.collected_at is not None:
                raise NotFound(
                    f"the files of {digest[:12]} were removed, since no version has them any more; push them again"
                )
            files = Manifest.model_validate_json(row.body).files
            names = _names_of(session, {file.sha256 for file in files})
        sizes = {file.sha256: file.size_bytes for file in files}
        return [self._locate(sha256, size, names.get(sha256, sha256)) for sha256, size in sizes.items()]

    def locate(self, sha256: str, size_bytes: int) -> Transfer:
        """Say where one verified blob is fetched from."""
        with self._db.read() as session:
            name = _names_of(session, {sha256}).get(sha256, sha256)
        return self._locate(sha256, size_bytes, name)

    def _locate(self, sha256: str, size_bytes: int, stored_as: str) -> Transfer:
        with storage_explained():
            location = self.storage.get_location(stored_as)
        return _transfer(sha256, size_bytes, location)


def _sizes(blob: BlobSpec, part_bytes: int) -> dict[int, int]:
    """Number and size of each part of a blob."""
    starts = range(0, blob.size_bytes, part_bytes)
    return {number: min(part_bytes, blob.size_bytes - start) for number, start in enumerate(starts, start=1)}


def _transfer(sha256: str, size_bytes: int, location: Location) -> Transfer:
    return Transfer(sha256=sha256, size_bytes=size_bytes, url=location.url, headers=dict(location.headers))


def _names_of(session: Session, digests: Collection[str]) -> dict[str, str]:
    rows = session.execute(select(Blob.sha256, Blob.stored_as).where(Blob.sha256.in_(digests)))
    return {row.sha256: row.stored_as for row in rows}


def finish_upload(session: Session, upload: str | None) -> None:
    """Note that what a session was for has been made, in the transaction that made it."""
    if upload is not None:
        session.execute(update(Upload).where(Upload.id == upload).values(finished_at=utc_now()))


def owner_of(who: Principal) -> str:
    """Whose an upload session is: one token's. Names can be given twice, and are then no proof of anything."""
    return f"name:{who.name}" if who.token_id is None else f"token:{who.token_id}"


def _announced(session: Session, upload: str, who: Principal) -> dict[str, UploadBlob]:
    """The blobs of an upload session. Raises NotFound for one of somebody else's."""
    query = (
        select(UploadBlob)
        .join(Upload, Upload.id == UploadBlob.upload_id)
        .where(Upload.id == upload, Upload.owner == owner_of(who), Upload.expires_at >= utc_now())
    )
    blobs = {blob.sha256: blob for blob in session.scalars(query)}
    if not blobs:
        raise NotFound("there is no such upload session; begin the push again", param="upload")
    return blobs


def _begun(session: Session, wanted: Mapping[str, BlobSpec], who: Principal) -> dict[str, tuple[str, str | None]]:
    """Where the caller has begun to send these blobs in sessions that came to no end."""
    query = (
        select(UploadBlob.sha256, UploadBlob.size_bytes, UploadBlob.stored_as, UploadBlob.parts_id)
        .join(Upload, Upload.id == UploadBlob.upload_id)
        .where(
            UploadBlob.sha256.in_(wanted),
            Upload.owner == owner_of(who),
            Upload.finished_at.is_(None),
            Upload.expires_at >= utc_now(),
        )
        .order_by(Upload.created_at)
    )
    return {
        sha256: (stored_as, parts_id)
        for sha256, size_bytes, stored_as, parts_id in session.execute(query)
        if wanted[sha256].size_bytes == size_bytes
    }


@contextmanager
def storage_explained(*, but: type[StorageError] | tuple[type[StorageError], ...] = ()) -> Iterator[None]:
    """Turn the storage room's errors, and a full disk, into the registry's; those in `but` the caller knows."""
    try:
        yield
    except but:
        raise
    except StorageUnavailable as error:
        raise Unavailable(str(error)) from error
    except StorageError as error:
        raise Verification(str(error)) from error
    except OSError as error:
        raise Unavailable(
            f"the registry can't use its disk ({error.strerror}: {Path(str(error.filename or '')).name or 'temporary file'}); "
            "free some space, then try again"
        ) from error
