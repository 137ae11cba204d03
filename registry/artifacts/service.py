"""Verifies what was uploaded, and says where to fetch it from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypedDict

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from registry.artifacts.blob_check import Inspection, Passing, read_blob
from registry.artifacts.facts import Facts
from registry.artifacts.long_facts import facts_of, facts_within, has_turn, keep_facts
from registry.artifacts.manifests import manifest_of
from registry.artifacts.models import Blob, ManifestAccess, ManifestRow, Upload, UploadBlob
from registry.artifacts.stored_blobs import Readable, Stored, find_stored, hold_blobs
from registry.artifacts.uploads import Uploads, announced, leave_places, sent_to, transfer_of
from registry.db.database import Database
from registry.db.statements import insert_if_new, upsert
from registry.errors import Invalid, NotFound, Verification
from registry.principal import Principal
from registry.storage import CHUNK_BYTES, Storage
from registry.storage.errors import BlobCorrupt, BlobMissing, storage_explained
from sdk.schemas.artifacts import BlobSpec, Transfer


class _Held(NamedTuple):
    """What a caller has of one blob."""

    blob: BlobSpec
    #: What is kept of it, if the caller may rely on that.
    row: Stored | None
    #: What the session announced.
    sent: UploadBlob | None
    #: Where the bytes that somebody else has sent are, by its row.
    elsewhere: str | None


class Sent(TypedDict):
    """Blobs, and who has sent them in which session: the arguments of `Artifacts.has`."""

    upload: str | None
    blobs: list[BlobSpec]
    who: Principal


class Bytes(Sent):
    """What to verify, and for whom: the arguments of `Artifacts.verify`."""

    inspections: Mapping[str, Inspection]


class Verified(NamedTuple):
    """What is in files, by SHA-256."""

    facts: dict[str, Facts]
    #: Those of them that `Artifacts.keep` has to compare with what is kept for other records.
    unkept: dict[str, Facts]


class Artifacts:
    """The service over blobs and manifests, and the only user of the storage."""

    def __init__(self, db: Database, storage: Storage, uploads: Uploads, *, readable: Sequence[Readable] = ()) -> None:
        self._db = db
        self.storage = storage
        self._uploads = uploads
        self._readable = readable

    # Verifying.

    def verify(
        self,
        *,
        upload: str | None,
        blobs: Iterable[BlobSpec],
        who: Principal,
        inspections: Mapping[str, Inspection] | None = None,
    ) -> Verified:
        """Stream each blob that is new once from storage, hash it, and look into those with an inspection.

        Without `upload`, every blob must be one that the caller may read. Returns what the inspections found, now or
        when the blob was new; it is held in a block of `holding_facts`. Raises NotFound for an unknown session, Invalid
        for a blob that it did not announce, Verification if bytes or structure are wrong, Unavailable if the storage
        can't be read, or what `take_turn` raises.
        """
        inspections = inspections or {}
        found = Verified({}, {})
        for held in self._held_now(upload, blobs, who):
            inspection = inspections.get(held.blob.sha256)
            try:
                facts, is_kept = self._settle(held, inspection, who)
            except BlobMissing:
                # Another request of this caller has verified the same blob in the meantime, or it never arrived.
                (again,) = self._held_now(upload, [held.blob], who)
                try:
                    facts, is_kept = self._settle(again, inspection, who)
                except BlobMissing:
                    raise Verification(
                        f"the bytes of {held.blob.sha256[:12]} never arrived in storage; push again"
                    ) from None
            if facts is not None:
                found.facts[held.blob.sha256] = facts
                if not is_kept:
                    found.unkept[held.blob.sha256] = facts
        return found

    def known(
        self,
        *,
        upload: str | None,
        blobs: Iterable[BlobSpec],
        who: Principal,
        inspections: Mapping[str, Inspection],
    ) -> dict[str, Facts] | None:
        """What `verify` would find, if that is known of every blob; None if bytes must be read for it.

        Raises NotFound, Invalid and Unavailable as `verify` does.
        """
        if any(held.row is None for held in self._held_now(upload, blobs, who)):
            return None
        kept, found = facts_of(self._db, inspections.keys()), {}
        for sha256, inspection in inspections.items():
            facts = inspection.known(kept.pop(sha256, None))
            if facts is None:
                return None
            found[sha256] = facts
        return found

    def has(self, session: Session, *, upload: str | None, blobs: Iterable[BlobSpec], who: Principal) -> bool:
        """Whether the caller still has each blob, verified, so that what was `known` of them is true.

        Raises NotFound and Invalid as `verify` does.
        """
        return all(held.row is not None for held in self._held(session, upload, blobs, who))

    def keep(self, session: Session, found: Mapping[str, Facts]) -> None:
        """Keep what `verify` found, now that it was judged and admitted; what is kept for other records stays."""
        # In one order, and without keeping manifests from naming the rows: another publication of the same bytes may have
        # recorded its manifest, for which this one waits next.
        for sha256, facts in sorted(found.items()):
            if session.get(Blob, sha256, with_for_update={"key_share": True}, populate_existing=True) is None:
                continue
            before = facts_within(session, sha256)
            if (kept := facts.beside(before)) != before:
                keep_facts(session, sha256, kept)

    def _held_now(self, upload: str | None, blobs: Iterable[BlobSpec], who: Principal) -> list[_Held]:
        with self._db.read() as session:
            return self._held(session, upload, blobs, who)

    def _held(self, session: Session, upload: str | None, blobs: Iterable[BlobSpec], who: Principal) -> list[_Held]:
        """What the caller has of each blob. Raises NotFound, Invalid."""
        wanted = {blob.sha256: blob for blob in blobs}
        sent_in = {} if upload is None else announced(session, upload, who)
        stored = find_stored(session, wanted, who, self._readable)
        found = []
        for blob in wanted.values():
            row, sent, elsewhere = stored.get(blob.sha256), sent_in.get(blob.sha256), None
            # Either the caller may read it, or has sent it to this very place, where it was verified before.
            if row is not None and not (row.readable or (sent is not None and sent.stored_as == row.stored_as)):
                elsewhere, row = row.stored_as, None
            if row is None and (sent is None or sent.size_bytes != blob.size_bytes):
                raise Invalid(
                    f"{blob.sha256[:12]} was neither announced by the upload session nor is in a version that this "
                    "token may read; start the push again",
                    param="upload",
                )
            if row is not None and row.size_bytes != blob.size_bytes:
                raise Invalid(
                    f"{blob.sha256[:12]} is stored with another size; hash the files again", param="size_bytes"
                )
            found.append(_Held(blob, row, sent, elsewhere))
        return found

    def _settle(self, held: _Held, inspection: Inspection | None, who: Principal) -> tuple[Facts | None, bool]:
        """Verify one blob; return what is in it, and whether that is what is kept of it. Raises BlobMissing if nothing is stored in its place."""
        with storage_explained(but=BlobMissing):
            if held.row is None:
                assert held.sent is not None
                return self._take(held.blob, held.sent, held.elsewhere, inspection, who)
            if inspection is None:
                return None, True
            sha256 = held.blob.sha256
            if (facts := inspection.known(facts_of(self._db, [sha256]).get(sha256))) is not None:
                return facts, True
            facts = read_blob(self.storage, held.row.stored_as, held.blob, inspection)
            if facts is None or not facts.replaces(facts_of(self._db, [sha256]).get(sha256)):
                return facts, False
            with self._db.write() as session:
                keep_facts(session, sha256, facts.to_json())
            return facts, True

    def _take(
        self, blob: BlobSpec, sent: UploadBlob, elsewhere: str | None, inspection: Inspection | None, who: Principal
    ) -> tuple[Facts | None, bool]:
        """Read what a session has sent, and let the blob's row name it, or note that its sender has proven to have it."""
        if sent.parts_id is not None and self.storage.stat(sent.stored_as) is None:
            self._uploads.join(blob, sent.stored_as, sent.parts_id)
        try:
            facts = read_blob(self.storage, sent.stored_as, blob, inspection)
        except BlobCorrupt:
            # The name promises other bytes, so nobody can want these, except if they were read wrongly.
            self._discard(sent)
            raise
        kept_facts = None if facts is None else facts.to_json()
        values = {
            "stored_as": sent.stored_as,
            "size_bytes": blob.size_bytes,
            # Long ones are kept apart.
            "facts": None if has_turn() else kept_facts,
            "collected_at": None,
        }
        lost = elsewhere if elsewhere is not None and self.storage.stat(elsewhere) is None else None
        with self._db.write() as session:
            # Nothing can be marked for removal now, so bytes that aren't yet will stay until what they are for has a
            # name.
            hold_blobs(session)
            now = sent_to(session, sent)
            if now != sent.stored_as:
                if now is not None and now == session.scalar(select(Blob.stored_as).where(Blob.sha256 == blob.sha256)):
                    # Another request of this caller has verified the same blob in the meantime.
                    raise BlobMissing(sent.stored_as)
                raise Verification(f"{blob.sha256[:12]} was removed while it was being verified; push again")
            is_new = insert_if_new(session, Blob, sha256=blob.sha256, **values)
            row = session.get_one(Blob, blob.sha256, with_for_update=True, populate_existing=True)
            # If the row has come to name other bytes since, those were verified.
            if row.collected_at is not None or row.stored_as == lost:
                upsert(session, Blob, {"sha256": blob.sha256}, values)
                session.refresh(row)
                is_new = True
            is_kept = facts is None or is_new
            if facts is not None and kept_facts is not None and (has_turn() or not is_new):
                # Facts that can be read belong to versions too, whatever record came with the bytes this time.
                is_kept = facts.replaces(facts_within(session, blob.sha256))
                if is_kept:
                    keep_facts(session, blob.sha256, kept_facts)
            kept = row.stored_as
        if kept != sent.stored_as:
            # The same bytes are stored elsewhere already.
            self._discard(sent, proven_by=who)
        return facts, is_kept

    def _discard(self, sent: UploadBlob, proven_by: Principal | None = None) -> None:
        """Remove bytes, unless the blob's row names them by now: another request of the same sender may have verified
        them.

        A sender who has proven to have the right bytes counts as having sent those that the row names, in each of their
        sessions: also in one that was opened since, and was told that they need not be sent again.
        """
        with self._db.write() as session:
            hold_blobs(session, alone=True)
            row = session.get(Blob, sent.sha256)
            if row is not None and row.stored_as == sent.stored_as:
                return
            if proven_by is not None and row is not None and row.collected_at is None:
                mine = select(Upload.id).where(Upload.owner == proven_by.owner)
                same = (UploadBlob.stored_as == sent.stored_as, UploadBlob.upload_id.in_(mine))
                moved = update(UploadBlob).where(UploadBlob.sha256 == sent.sha256, *same)
                session.execute(moved.values(stored_as=row.stored_as, parts_id=None))
            leave_places(session, [sent.stored_as])
        self.storage.delete(sent.stored_as)

    # Reading and fetching.

    @contextmanager
    def reading(self, sha256: str) -> Iterator[Passing]:
        """Read a verified blob from its beginning, as far as is wanted. Raises Verification if it is gone,
        Unavailable.
        """
        with storage_explained(), self.storage.open(self._name_of(sha256)) as chunks:
            yield Passing(chunks)

    def copy(self, sha256: str, target: Path) -> None:
        """Write a verified blob to a file on this machine. Raises Verification if it is gone, Unavailable."""
        with self.reading(sha256) as source, storage_explained(), target.open("wb") as file:
            while part := source.read(CHUNK_BYTES):
                file.write(part)

    def put(self, path: Path, sha256: str, size_bytes: int) -> None:
        """Store what the registry itself has made, before `name` lets a row name it. Raises Unavailable."""
        with storage_explained(), path.open("rb") as file:
            self.storage.put(sha256, size_bytes, iter(lambda: file.read(CHUNK_BYTES), b""))

    def name(self, session: Session, sha256: str, size_bytes: int) -> None:
        """Let a row name bytes that `put` has stored, or that are stored under another name already."""
        hold_blobs(session)
        values = {"stored_as": sha256, "size_bytes": size_bytes, "facts": None, "collected_at": None}
        insert_if_new(session, Blob, sha256=sha256, **values)
        row = session.get_one(Blob, sha256, with_for_update=True, populate_existing=True)
        if row.collected_at is not None:
            upsert(session, Blob, {"sha256": sha256}, values)

    def parts(self, sha256: str) -> Callable[[int, int], bytes]:
        """Return a function that reads the bytes [begin, end) of a verified blob, which should be few.

        It raises Verification if the blob is gone, Unavailable.
        """
        name = self._name_of(sha256)

        def read(begin: int, end: int) -> bytes:
            with storage_explained():
                return self.storage.read_part(name, begin, end)

        return read

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
            files = manifest_of(digest, row.body).files
            names = _names_of(session, {file.sha256 for file in files})
        sizes = {file.sha256: file.size_bytes for file in files}
        return [self._locate(sha256, size, names.get(sha256, sha256)) for sha256, size in sizes.items()]

    def locate(self, sha256: str, size_bytes: int) -> Transfer:
        """Say where one verified blob is fetched from."""
        return self._locate(sha256, size_bytes, self._name_of(sha256))

    def _name_of(self, sha256: str) -> str:
        with self._db.read() as session:
            return _names_of(session, {sha256}).get(sha256, sha256)

    def _locate(self, sha256: str, size_bytes: int, stored_as: str) -> Transfer:
        with storage_explained():
            location = self.storage.get_location(stored_as)
        return transfer_of(sha256, size_bytes, location)


def _names_of(session: Session, digests: Collection[str]) -> dict[str, str]:
    rows = session.execute(select(Blob.sha256, Blob.stored_as).where(Blob.sha256.in_(digests)))
    return {row.sha256: row.stored_as for row in rows}
