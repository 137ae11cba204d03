"""Uploads, verification of what was uploaded, manifests, and where to fetch them from."""

from __future__ import annotations

import hashlib
import secrets
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import IO, NamedTuple

from pydantic import ValidationError
from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from registry.artifacts.inspection import ConfigFacts, WeightFacts
from registry.artifacts.models import Blob, ManifestAccess, ManifestBlob, ManifestRow, Upload, UploadBlob
from registry.auth.principal import Principal
from registry.db import Database, hold_blobs, insert_if_new, upsert, utc_now
from registry.errors import Invalid, NotFound, Unavailable, Verification
from registry.storage import Storage
from registry.storage.errors import StorageError, StorageUnavailable
from sdk.schemas.artifacts import BlobSpec, Transfer, UploadView
from sdk.schemas.codes import explain_validation
from sdk.schemas.manifest import Manifest

_SESSION = timedelta(hours=24)
_STORED = Blob.collected_at.is_(None)


class Inspection(NamedTuple):
    """How to look into a file: `look` says what is in it, or raises Verification where its content is wrong."""

    kind: type[WeightFacts] | type[ConfigFacts]
    look: Callable[[IO[bytes]], WeightFacts | ConfigFacts]


class Artifacts:
    """The service over blobs and manifests, and the only user of the storage."""

    def __init__(self, db: Database, storage: Storage) -> None:
        self._db = db
        self.storage = storage

    def begin_upload(self, *, blobs: list[BlobSpec], who: Principal) -> UploadView:
        """Open a session and say where each blob that is not stored yet is to be sent. Until it ends, none is removed."""
        upload_id = secrets.token_hex(16)
        wanted = {blob.sha256: blob for blob in blobs}
        with self._db.write() as session:
            hold_blobs(session)
            session.add(Upload(id=upload_id, created_by=who.name, expires_at=utc_now() + _SESSION))
            session.flush()
            session.execute(
                insert(UploadBlob),
                [
                    {"upload_id": upload_id, "sha256": blob.sha256, "size_bytes": blob.size_bytes}
                    for blob in wanted.values()
                ],
            )
            stored = set(session.scalars(select(Blob.sha256).where(Blob.sha256.in_(wanted), _STORED)))
        put = []
        with storage_explained():
            for blob in wanted.values():
                if blob.sha256 not in stored:
                    location = self.storage.put_location(blob.sha256, blob.size_bytes)
                    put.append(
                        Transfer(
                            sha256=blob.sha256,
                            size_bytes=blob.size_bytes,
                            url=location.url,
                            headers=dict(location.headers),
                        )
                    )
        return UploadView(id=upload_id, put=put)

    def verify(
        self,
        *,
        upload: str | None,
        blobs: Iterable[BlobSpec],
        who: Principal,
        inspections: Mapping[str, Inspection] | None = None,
    ) -> dict[str, WeightFacts | ConfigFacts]:
        """Stream each blob that is new once from storage, hash it, and look into those with an inspection.

        Without `upload`, every blob must belong to a manifest that the caller may read. Returns what the inspections
        found, by SHA-256: now, or when the blob was new. Raises NotFound for an unknown session, Invalid for a blob
        that it did not announce, Verification where bytes or structure are wrong, Unavailable where the storage can't
        be read.
        """
        inspections = inspections or {}
        wanted = {blob.sha256: blob for blob in blobs}
        with self._db.read() as session:
            announced = _readable(session, wanted, who) if upload is None else _announced(session, upload, who)
            query = select(Blob.sha256, Blob.size_bytes, Blob.facts).where(Blob.sha256.in_(wanted), _STORED)
            stored = {row.sha256: row for row in session.execute(query)}
        for blob in wanted.values():
            if announced.get(blob.sha256) != blob.size_bytes:
                raise Invalid(
                    f"{blob.sha256[:12]} was neither announced by the upload session nor is it in a version that this "
                    "token may read; begin the push again",
                    param="upload",
                )
            if blob.sha256 in stored and stored[blob.sha256].size_bytes != blob.size_bytes:
                raise Invalid(
                    f"{blob.sha256[:12]} is stored with another size; hash the files again", param="size_bytes"
                )
        found: dict[str, WeightFacts | ConfigFacts] = {}
        for blob in wanted.values():
            inspection = inspections.get(blob.sha256)
            row = stored.get(blob.sha256)
            facts = None if row is None or inspection is None else inspection.kind.from_json(row.facts)
            if row is None or (inspection is not None and facts is None):
                facts = self._read(blob, inspection)
                kept = None if facts is None else facts.to_json()
                with self._db.write() as session, storage_explained():
                    # Nothing removes blobs now, so bytes that are still there stay until what they are for has a name.
                    hold_blobs(session)
                    if self.storage.stat(blob.sha256) is None:
                        raise Verification(f"{blob.sha256[:12]} was removed while it was verified; push again")
                    values = {"size_bytes": blob.size_bytes, "facts": kept, "collected_at": None}
                    upsert(session, Blob, {"sha256": blob.sha256}, values)
            if facts is not None:
                found[blob.sha256] = facts
        return found

    def _read(self, blob: BlobSpec, inspection: Inspection | None) -> WeightFacts | ConfigFacts | None:
        hasher = hashlib.sha256()
        size = 0
        with storage_explained(), tempfile.TemporaryFile() as copy:
            if self.storage.stat(blob.sha256) is None:
                raise Verification(f"the bytes of {blob.sha256[:12]} never arrived in storage; push again")
            with self.storage.open(blob.sha256) as chunks:
                for chunk in chunks:
                    hasher.update(chunk)
                    size += len(chunk)
                    if inspection is not None:
                        copy.write(chunk)
            if hasher.hexdigest() != blob.sha256:
                # The name promises other bytes, so nobody can want these.
                self.storage.delete(blob.sha256)
            if hasher.hexdigest() != blob.sha256 or size != blob.size_bytes:
                raise Verification(
                    f"storage holds other bytes than were announced: expected sha256 {blob.sha256} of "
                    f"{blob.size_bytes} bytes, found {hasher.hexdigest()} of {size}; push again"
                )
            if inspection is None:
                return None
            copy.seek(0)
            return inspection.look(copy)

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
        manifest = Manifest.model_validate_json(row.body)
        return [
            self.locate(sha256, size)
            for sha256, size in {file.sha256: file.size_bytes for file in manifest.files}.items()
        ]

    def locate(self, sha256: str, size_bytes: int) -> Transfer:
        """Say where one verified blob is fetched from."""
        with storage_explained():
            location = self.storage.get_location(sha256)
        return Transfer(sha256=sha256, size_bytes=size_bytes, url=location.url, headers=dict(location.headers))


def record_manifest(session: Session, manifest: Manifest, *, namespace: str) -> str:
    """Record a manifest whose blobs were verified, within the caller's transaction; return its digest.

    Readers of `namespace` may fetch its files. Raises Verification where a blob was removed meanwhile.
    """
    digest = manifest.digest
    hold_blobs(session)
    there = select(ManifestRow.digest).where(ManifestRow.digest == digest, ManifestRow.collected_at.is_(None))
    if session.scalars(there).first() is None:
        insert_if_new(
            session,
            ManifestRow,
            digest=digest,
            kind=manifest.kind,
            body=manifest.canonical().decode(),
            size_bytes=manifest.size_bytes,
        )
        blobs = sorted({file.sha256 for file in manifest.files})
        present = set(session.scalars(select(Blob.sha256).where(Blob.sha256.in_(blobs), _STORED)))
        if len(present) != len(blobs):
            raise Verification("a file was removed while it was published, since nothing named it; push again")
        for sha256 in blobs:
            insert_if_new(session, ManifestBlob, manifest_digest=digest, sha256=sha256)
        session.execute(update(ManifestRow).where(ManifestRow.digest == digest).values(collected_at=None))
    insert_if_new(session, ManifestAccess, manifest_digest=digest, namespace=namespace)
    return digest


def finish_upload(session: Session, upload: str | None) -> None:
    """Note that what a session was for has been made, in the transaction that made it."""
    if upload is not None:
        session.execute(update(Upload).where(Upload.id == upload).values(finished_at=utc_now()))


def read_manifest(session: Session, digest: str) -> Manifest:
    """Return a recorded manifest. Raises NotFound."""
    found = read_manifests(session, {digest}).get(digest)
    if found is None:
        raise NotFound(f"there is no manifest {digest[:12]}; see what there is with: adapterctl list")
    return found


def read_manifests(session: Session, digests: Collection[str]) -> dict[str, Manifest]:
    """Return recorded manifests by digest."""
    query = select(ManifestRow.digest, ManifestRow.body).where(ManifestRow.digest.in_(digests))
    return {digest: Manifest.model_validate_json(body) for digest, body in session.execute(query)}


def _announced(session: Session, upload: str, who: Principal) -> dict[str, int]:
    """The blobs of an upload session, with their sizes. Raises NotFound for one of somebody else's."""
    query = (
        select(UploadBlob.sha256, UploadBlob.size_bytes)
        .join(Upload, Upload.id == UploadBlob.upload_id)
        .where(Upload.id == upload, Upload.created_by == who.name, Upload.expires_at >= utc_now())
    )
    blobs = {blob.sha256: blob.size_bytes for blob in session.execute(query)}
    if not blobs:
        raise NotFound("there is no such upload session; begin the push again", param="upload")
    return blobs


def _readable(session: Session, wanted: Collection[str], who: Principal) -> dict[str, int]:
    """Those of these blobs that the caller could fetch: of the files of versions that it may read."""
    query = (
        select(Blob.sha256, Blob.size_bytes)
        .join(ManifestBlob, ManifestBlob.sha256 == Blob.sha256)
        .join(ManifestAccess, ManifestAccess.manifest_digest == ManifestBlob.manifest_digest)
        .where(Blob.sha256.in_(wanted), _STORED, who.within(ManifestAccess.namespace))
    )
    return {blob.sha256: blob.size_bytes for blob in session.execute(query.distinct())}


def blobs_of(manifest: Manifest) -> list[BlobSpec]:
    """The blobs that a manifest is made of."""
    return [blob_of(file.sha256, file.size_bytes) for file in manifest.files]


def blob_of(sha256: str, size_bytes: int) -> BlobSpec:
    """Return a blob as uploads know it. Raises Invalid for a size that none has."""
    try:
        return BlobSpec(sha256=sha256, size_bytes=size_bytes)
    except ValidationError as error:
        message, param = explain_validation(list(error.errors()))
        raise Invalid(f"{message}; hash the file again", param=param) from None


@contextmanager
def storage_explained() -> Iterator[None]:
    """Turn the storage room's errors, and a full disk, into the registry's."""
    try:
        yield
    except StorageUnavailable as error:
        raise Unavailable(str(error)) from error
    except StorageError as error:
        raise Verification(str(error)) from error
    except OSError as error:
        raise Unavailable(
            f"the registry can't use its disk ({error.strerror}: {Path(str(error.filename or '')).name or 'temporary file'}); "
            "free some space, then try again"
        ) from error
