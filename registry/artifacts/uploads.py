"""Upload sessions: what has to be sent, under which name, whole or in parts.

A digest is no proof of possession: only callers who may already read a blob need not send it. Each upload session sends
under a name of its own, which nobody else can write to, and a blob's row says under which name its verified bytes are
stored.

A session is for a namespace, in which room is reserved for all that is announced before anybody learns where to send
what is missing. The room is given back when something is made of the session, which counts from then on, or when the
session expires. What its list takes in the database counts until it has expired.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple

from sqlalchemy import bindparam, delete, select, update
from sqlalchemy.orm import Session

from registry.artifacts.models import Upload, UploadBlob, UploadPart
from registry.artifacts.stored_blobs import Readable, find_stored, hold_blobs
from registry.db.database import Database
from registry.db.statements import connection_of, upsert
from registry.db.types import utc_now
from registry.errors import Invalid, NotFound, QuotaExceeded, Verification
from registry.principal import Principal
from registry.storage import MAX_PARTS, Location, Storage
from registry.storage.errors import BlobMissing, storage_explained
from registry.storage.protocol import sha256_of
from registry.usage.charging import charge, record_bytes
from sdk.schemas.artifacts import BlobSpec, InParts, PartSpec, Transfer, UploadView

_SESSION = timedelta(hours=24)
#: How many expired sessions are removed by somebody who needs their room.
_ENDED_AT_ONCE = 20
#: What each announced blob takes in the database, with its indexes: 425 bytes were measured.
_BLOB_BYTES = 400

_FINISH = (
    update(Upload)
    .where(Upload.id == bindparam("upload"), Upload.finished_at.is_(None))
    .values(finished_at=bindparam("at"))
    .returning(Upload.namespace, Upload.reserved_bytes)
)


class _Opened(NamedTuple):
    """A session that was just opened."""

    upload_id: str
    rows: list[UploadBlob]
    #: Blobs that the caller need not send.
    readable: Collection[str]
    #: Blobs that the caller may have sent already.
    begun: Collection[str]


class Uploads:
    """The service over upload sessions."""

    def __init__(self, db: Database, storage: Storage, *, readable: Sequence[Readable] = ()) -> None:
        self._db = db
        self._storage = storage
        self._readable = readable

    def begin(self, *, blobs: list[BlobSpec], who: Principal, namespace: str | None = None) -> UploadView:
        """Open a session and say what has to be sent, and where to; until it ends, none of its blobs is removed.

        What the caller may read already is not sent again, nor what has arrived in an earlier session of theirs that
        did not finish: that is how an interrupted upload continues. Unless the caller may read all of it, room is
        reserved in the namespace; None: the first in which the caller may write, or else send. Raises NotFound,
        Forbidden, QuotaExceeded.
        """
        if namespace is None:
            # The one in which names without a namespace are looked up, or a worker's first.
            namespace = who.home("write" if who.namespaces("write") != [] else "send")
        who.require("send", namespace, param="namespace")
        wanted = {blob.sha256: blob for blob in blobs}
        try:
            opened = self._open(wanted, namespace, who)
        except QuotaExceeded:
            with self._db.write() as session:
                released = end_expired(session, namespace=namespace, most=_ENDED_AT_ONCE)
            if not released:
                raise
            opened = self._open(wanted, namespace, who)
        return self._present(opened, wanted)

    def _open(self, wanted: Mapping[str, BlobSpec], namespace: str, who: Principal) -> _Opened:
        """Record what a new session announces, and reserve room for it. Raises QuotaExceeded."""
        upload_id, place = secrets.token_hex(16), secrets.token_hex(16)
        with self._db.write() as session:
            hold_blobs(session)
            stored = find_stored(session, wanted, who, self._readable)
            readable = {sha256: row.stored_as for sha256, row in stored.items() if row.readable}
            begun = _begun(session, wanted, who)
            # With new bytes, something new will be made, and all of it counts; without any, it may exist already.
            is_new = len(readable) < len(wanted)
            reserved_bytes = sum(blob.size_bytes for blob in wanted.values()) if is_new else 0
            upload = Upload(
                id=upload_id,
                created_by=who.name,
                owner=who.owner,
                namespace=namespace,
                reserved_bytes=reserved_bytes,
                record_bytes=record_bytes() + _BLOB_BYTES * len(wanted),
                expires_at=utc_now() + _SESSION,
            )
            session.add(upload)
            session.flush()
            taken = _take_over(session, upload, wanted) if is_new else 0
            charge(session, namespace, reserved=reserved_bytes - taken, records=upload.record_bytes)
            rows = []
            # What the caller may read now counts as sent, even if they may no longer read it when the session is used.
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
                        reserved=is_new,
                    )
                )
            session.add_all(rows)
        return _Opened(upload_id, rows, readable=readable, begun=begun)

    def _present(self, opened: _Opened, wanted: Mapping[str, BlobSpec]) -> UploadView:
        view = UploadView(id=opened.upload_id, put=[])
        with storage_explained():
            for row in opened.rows:
                blob = wanted[row.sha256]
                begun = blob.sha256 in opened.begun
                if blob.sha256 in opened.readable or (begun and self._storage.stat(row.stored_as) is not None):
                    continue
                if _part_bytes(self._storage, blob.size_bytes) is not None:
                    view.parts.append(self._in_parts(row))
                else:
                    location = self._storage.put_location(row.stored_as, blob.size_bytes)
                    view.put.append(transfer_of(blob.sha256, blob.size_bytes, location))
        return view

    def ask_parts(self, *, upload: str, sha256: str, parts: list[PartSpec], who: Principal) -> list[Transfer]:
        """Say where to send parts of an announced blob; each location accepts only the bytes of its digest.

        Raises NotFound, and Invalid for a blob that is not sent in parts or a part that it does not have.
        """
        with self._db.read() as session:
            row = announced(session, upload, who).get(sha256)
        part_bytes = None if row is None else _part_bytes(self._storage, row.size_bytes)
        if row is None or row.parts_id is None or part_bytes is None:
            raise Invalid(f"{sha256[:12]} is not sent in parts in this session; start the push again", param="sha256")
        found = []
        with storage_explained():
            for part in parts:
                size_bytes = min(part_bytes, row.size_bytes - (part.number - 1) * part_bytes)
                if size_bytes <= 0:
                    raise Invalid(
                        f"{sha256[:12]} has no part {part.number}; start the push again", param="parts.number"
                    )
                location = self._storage.part_location(
                    row.stored_as, row.parts_id, part.number, part.sha256, size_bytes
                )
                found.append(transfer_of(part.sha256, size_bytes, location))
        with self._db.write() as session:
            for part in parts:
                key = {"stored_as": row.stored_as, "number": part.number}
                upsert(session, UploadPart, key, {"sha256": part.sha256})
        return found

    def join(self, blob: BlobSpec, stored_as: str, parts_id: str) -> None:
        """Join the parts of a blob into one object. Raises Verification if one of them is missing."""
        sizes = _sizes(blob.size_bytes, _part_bytes(self._storage, blob.size_bytes) or blob.size_bytes)
        try:
            arrived = self._storage.sent_parts(stored_as, parts_id)
            if missing := [number for number, size in sizes.items() if arrived.get(number) != size]:
                raise Verification(
                    f"{len(missing)} of {len(sizes)} parts of {blob.sha256[:12]} never arrived in storage; push again"
                )
            with self._db.read() as session:
                asked = select(UploadPart.number, UploadPart.sha256).where(UploadPart.stored_as == stored_as)
                digests = {row.number: row.sha256 for row in session.execute(asked) if row.number in sizes}
            self._storage.join_parts(stored_as, parts_id, digests)
        except BlobMissing:
            # Joined by somebody else in the meantime, or swept: the read that follows will tell.
            return

    def _in_parts(self, row: UploadBlob) -> InParts:
        part_bytes = _part_bytes(self._storage, row.size_bytes) or row.size_bytes
        sizes = _sizes(row.size_bytes, part_bytes)
        sent: dict[int, int] = {}
        parts_id = row.parts_id
        if parts_id is not None:
            try:
                sent = self._storage.sent_parts(row.stored_as, parts_id)
            except BlobMissing:
                # They have been swept since.
                parts_id = None
            if any(sizes.get(number) != size for number, size in sent.items()):
                # They were cut with another setting, and number and size alone don't tell them from the parts of this
                # one.
                sent, parts_id = {}, None
        if parts_id is None:
            parts_id = self._storage.begin_parts(row.stored_as)
            with self._db.write() as session:
                of = (UploadBlob.upload_id == row.upload_id, UploadBlob.sha256 == row.sha256)
                session.execute(update(UploadBlob).where(*of).values(parts_id=parts_id))
        missing = [number for number, size in sizes.items() if sent.get(number) != size]
        return InParts(sha256=row.sha256, size_bytes=row.size_bytes, part_bytes=part_bytes, missing=missing)


def _part_bytes(storage: Storage, size_bytes: int) -> int | None:
    """The size of each part of a blob; None if it is sent at once."""
    usual = storage.part_bytes
    if usual is None or size_bytes <= usual:
        return None
    # No more parts than a store accepts, and whole mebibytes for people who read sizes.
    least = -(-size_bytes // MAX_PARTS)
    return max(usual, -(-least // 2**20) * 2**20)


def _sizes(size_bytes: int, part_bytes: int) -> dict[int, int]:
    """Number and size of each part of a blob."""
    starts = range(0, size_bytes, part_bytes)
    return {number: min(part_bytes, size_bytes - start) for number, start in enumerate(starts, start=1)}


def finish_upload(session: Session, upload: str | None) -> None:
    """Note that what a session was for has been made, in the transaction that made it; from now on only that counts in
    its namespace.
    """
    if upload is None:
        return
    ended = connection_of(session).execute(_FINISH, {"upload": upload, "at": utc_now()}).first()
    # A second thing may be made of the same session: its room was given back with the first.
    if ended is not None:
        charge(session, ended.namespace, reserved=-ended.reserved_bytes)


def abandon_uploads(session: Session, uploads: Collection[str], who: Principal) -> None:
    """End sessions of the caller's of which nothing will be made: their room is given back, and what was sent for them
    is garbage.
    """
    mine = select(Upload.id).where(Upload.id.in_(uploads), Upload.owner == who.owner)
    for upload in session.scalars(mine.order_by(Upload.id)).all():
        finish_upload(session, upload)


def end_expired(session: Session, *, namespace: str | None = None, most: int | None = None) -> int:
    """Remove sessions that have expired, `most` of them at most; only those of a namespace, if one is given.

    Return how many. Bytes that they have sent and that nothing names are removed by the next collection.
    """
    over = select(Upload.id).where(Upload.expires_at <= utc_now())
    if namespace is not None:
        over = over.where(Upload.namespace == namespace)
    # Another process that ends the same ones at the same moment waits at the first of them.
    gone = delete(Upload).where(Upload.id.in_(over.order_by(Upload.id).limit(most).with_for_update()))
    columns = (Upload.namespace, Upload.reserved_bytes, Upload.record_bytes, Upload.finished_at)
    rows = session.execute(gone.returning(*columns)).all()
    for row in rows:
        reserved_bytes = row.reserved_bytes if row.finished_at is None else 0
        charge(session, row.namespace, reserved=-reserved_bytes, records=-row.record_bytes)
    return len(rows)


def _take_over(session: Session, upload: Upload, blobs: Collection[str]) -> int:
    """Give a new session the room that earlier ones of its sender have for these blobs there; return the bytes."""
    wanted = (UploadBlob.sha256.in_(blobs), UploadBlob.reserved)
    earlier = select(Upload.id).where(
        Upload.id.in_(select(UploadBlob.upload_id).where(*wanted)),
        Upload.owner == upload.owner,
        Upload.namespace == upload.namespace,
        Upload.finished_at.is_(None),
        Upload.expires_at >= utc_now(),
    )
    # Their rows are locked in a fixed order, so that nobody ends one of them in the meantime.
    ids = session.scalars(earlier.order_by(Upload.id).with_for_update()).all()
    if not ids:
        return 0
    of_them = (UploadBlob.upload_id.in_(ids), *wanted)
    taken = update(UploadBlob).where(*of_them).values(reserved=False)
    moved: Counter[str] = Counter()
    for upload_id, size_bytes in session.execute(taken.returning(UploadBlob.upload_id, UploadBlob.size_bytes)):
        moved[upload_id] += size_bytes
    for upload_id, size_bytes in moved.items():
        less = {"reserved_bytes": Upload.reserved_bytes - size_bytes}
        session.execute(update(Upload).where(Upload.id == upload_id).values(less))
    return moved.total()


def leave_places(session: Session, names: Collection[str]) -> None:
    """Make sure that nobody is told to send to these names again, or relies on what is there: it is about to be
    removed.

    Sessions that announced a blob under one of them have it under a new name from now on. So the bytes may be removed
    without a lock, and at any later time: nothing new will ever have their name. Called with `hold_blobs(alone=True)`.
    """
    for name in names:
        fresh = f"{sha256_of(name)}.{secrets.token_hex(16)}"
        of = (UploadBlob.sha256 == sha256_of(name), UploadBlob.stored_as == name)
        session.execute(update(UploadBlob).where(*of).values(stored_as=fresh, parts_id=None))


def sent_to(session: Session, sent: UploadBlob) -> str | None:
    """The name that a session has for a blob now, which may differ from the one when `sent` was read."""
    of = (UploadBlob.upload_id == sent.upload_id, UploadBlob.sha256 == sent.sha256)
    return session.scalar(select(UploadBlob.stored_as).where(*of))


def announced(session: Session, upload: str, who: Principal) -> dict[str, UploadBlob]:
    """The blobs of an upload session. Raises NotFound if it is somebody else's."""
    query = (
        select(UploadBlob)
        .join(Upload, Upload.id == UploadBlob.upload_id)
        .where(Upload.id == upload, Upload.owner == who.owner, Upload.expires_at >= utc_now())
    )
    blobs = {blob.sha256: blob for blob in session.scalars(query)}
    if not blobs:
        raise NotFound("there is no such upload session; start the push again", param="upload")
    return blobs


def _begun(session: Session, wanted: Mapping[str, BlobSpec], who: Principal) -> dict[str, tuple[str, str | None]]:
    """Where the caller began to send these blobs in sessions that did not finish."""
    query = (
        select(UploadBlob.sha256, UploadBlob.size_bytes, UploadBlob.stored_as, UploadBlob.parts_id)
        .join(Upload, Upload.id == UploadBlob.upload_id)
        .where(
            UploadBlob.sha256.in_(wanted),
            Upload.owner == who.owner,
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


def transfer_of(sha256: str, size_bytes: int, location: Location) -> Transfer:
    """Say where to send bytes of this digest to, or fetch them from."""
    return Transfer(sha256=sha256, size_bytes=size_bytes, url=location.url, headers=dict(location.headers))
