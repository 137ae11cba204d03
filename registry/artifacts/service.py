"""Uploads, verification of what was uploaded, manifests, and where to fetch them from."""

from __future__ import annotations

import hashlib
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import IO

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.artifacts.models import Blob, ManifestBlob, ManifestRow, Upload, UploadBlob
from registry.db import Database, insert_if_new, utc_now
from registry.errors import Invalid, NotFound, Unavailable, Verification
from registry.storage import Storage
from registry.storage.errors import StorageError, StorageUnavailable
from sdk.schemas.artifacts import BlobSpec, Transfer, UploadView
from sdk.schemas.codes import explain_validation
from sdk.schemas.manifest import Manifest

_SESSION = timedelta(hours=24)

#: Looks into a file that was just hashed, and raises Verification where its content is wrong.
Inspection = Callable[[IO[bytes]], None]


class Artifacts:
    """The service over blobs and manifests, and the only user of the storage."""

    def __init__(self, db: Database, storage: Storage) -> None:
        self._db = db
        self.storage = storage

    def begin_upload(self, *, blobs: list[BlobSpec], by: str) -> UploadView:
        """Open a session and say where each blob that is not stored yet is to be sent."""
        upload_id = secrets.token_hex(16)
        wanted = {blob.sha256: blob for blob in blobs}
        with self._db.write() as session:
            session.add(Upload(id=upload_id, created_by=by, expires_at=utc_now() + _SESSION))
            session.flush()
            for blob in wanted.values():
                session.add(UploadBlob(upload_id=upload_id, sha256=blob.sha256, size_bytes=blob.size_bytes))
            stored = set(session.scalars(select(Blob.sha256).where(Blob.sha256.in_(wanted))))
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
        self, *, upload: str, blobs: Iterable[BlobSpec], by: str, inspections: dict[str, Inspection] | None = None
    ) -> None:
        """Stream each blob that is new once from storage, hash it, and look into those with an inspection.

        Raises NotFound for an unknown session, Invalid for a blob that it did not announce, Verification where
        bytes or structure are wrong, Unavailable where the storage can't be read.
        """
        inspections = inspections or {}
        wanted = {blob.sha256: blob for blob in blobs}
        with self._db.read() as session:
            row = session.get(Upload, upload)
            if row is None or row.created_by != by or row.expires_at < utc_now():
                raise NotFound("there is no such upload session; begin the push again", param="upload")
            announced = {
                blob.sha256: blob.size_bytes
                for blob in session.scalars(select(UploadBlob).where(UploadBlob.upload_id == upload))
            }
            query = select(Blob.sha256, Blob.size_bytes).where(Blob.sha256.in_(wanted))
            stored = {row.sha256: row.size_bytes for row in session.execute(query)}
        for blob in wanted.values():
            if announced.get(blob.sha256) != blob.size_bytes:
                raise Invalid(
                    f"the upload session never announced {blob.sha256[:12]}; begin the push again", param="upload"
                )
            if stored.get(blob.sha256, blob.size_bytes) != blob.size_bytes:
                raise Invalid(
                    f"{blob.sha256[:12]} is stored with another size; hash the files again", param="size_bytes"
                )
        for blob in wanted.values():
            inspection = inspections.get(blob.sha256)
            if blob.sha256 in stored and inspection is None:
                continue
            self._read(blob, inspection)
            with self._db.write() as session:
                insert_if_new(session, Blob, sha256=blob.sha256, size_bytes=blob.size_bytes)

    def _read(self, blob: BlobSpec, inspection: Inspection | None) -> None:
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
            if inspection is not None:
                copy.seek(0)
                inspection(copy)

    def download(self, digest: str) -> list[Transfer]:
        """Say where the files of the manifest `digest` are, each blob once. Raises NotFound."""
        with self._db.read() as session:
            row = session.get(ManifestRow, digest)
        if row is None:
            raise NotFound(f"there is no manifest {digest[:12]}")
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


def record_manifest(session: Session, manifest: Manifest) -> str:
    """Record a manifest whose blobs were verified, within the caller's transaction; return its digest."""
    digest = manifest.digest
    body = manifest.canonical().decode()
    insert_if_new(session, ManifestRow, digest=digest, kind=manifest.kind, body=body, size_bytes=manifest.size_bytes)
    for sha256 in sorted({file.sha256 for file in manifest.files}):
        insert_if_new(session, ManifestBlob, manifest_digest=digest, sha256=sha256)
    return digest


def read_manifest(session: Session, digest: str) -> Manifest:
    """Return a recorded manifest."""
    row = session.get(ManifestRow, digest)
    if row is None:
        raise NotFound(f"there is no manifest {digest[:12]}")
    return Manifest.model_validate_json(row.body)


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
