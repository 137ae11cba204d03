"""Manifests as the registry keeps them: recorded after their blobs were verified, and read back."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from typing import NamedTuple

from pydantic import ValidationError
from sqlalchemy import bindparam, exists, select, update
from sqlalchemy.orm import Session

from registry.artifacts.models import Blob, ManifestAccess, ManifestBlob, ManifestRow
from registry.artifacts.stored_blobs import hold_for_manifest
from registry.db.statements import append_new, connection_of, insert_if_new
from registry.errors import Invalid, NotFound, Unreadable, Verification
from sdk.schemas.artifacts import BlobSpec
from sdk.schemas.codes import explain_validation
from sdk.schemas.manifest import Manifest

_STORED = Blob.collected_at.is_(None)

#: Whether a manifest is recorded, and whether a namespace's readers may fetch it.
_THERE = select(
    exists()
    .where(ManifestAccess.manifest_digest == ManifestRow.digest, ManifestAccess.namespace == bindparam("namespace"))
    .label("open")
).where(ManifestRow.digest == bindparam("digest"), ManifestRow.collected_at.is_(None))


class Recorded(NamedTuple):
    """A manifest that is recorded, and whether the namespace's readers could not fetch its files until now."""

    digest: str
    opened: bool


def record_manifest(session: Session, manifest: Manifest, *, namespace: str) -> Recorded:
    """Record a manifest whose blobs were verified, within the caller's transaction.

    Readers of `namespace` may fetch its files. Raises Verification if a blob was removed meanwhile.
    """
    digest = manifest.digest
    hold_for_manifest(session, digest)
    there = connection_of(session).execute(_THERE, {"digest": digest, "namespace": namespace}).first()
    if there is None:
        new = insert_if_new(
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
            raise Verification(
                "a file was removed while it was being published, since nothing referred to it yet; push again"
            )
        append_new(session, ManifestBlob, *({"manifest_digest": digest, "sha256": sha256} for sha256 in blobs))
        if not new:
            session.execute(update(ManifestRow).where(ManifestRow.digest == digest).values(collected_at=None))
    opened = (there is None or not there.open) and insert_if_new(
        session, ManifestAccess, manifest_digest=digest, namespace=namespace
    )
    return Recorded(digest, opened)


def read_manifest(session: Session, digest: str) -> Manifest:
    """Return a recorded manifest. Raises NotFound, Unreadable."""
    body = session.scalar(select(ManifestRow.body).where(ManifestRow.digest == digest))
    if body is None:
        raise NotFound(f"there is no manifest {digest[:12]}; see what there is with: adapterctl list")
    return manifest_of(digest, body)


def read_manifests(session: Session, digests: Collection[str]) -> dict[str, Manifest]:
    """Return those of the recorded manifests that this release can read, by digest."""
    query = select(ManifestRow.digest, ManifestRow.body).where(ManifestRow.digest.in_(digests))
    found = {}
    for digest, body in session.execute(query):
        with suppress(Unreadable):
            found[digest] = manifest_of(digest, body)
    return found


def manifest_of(digest: str, body: str) -> Manifest:
    """Return the manifest of a row. No field may be ignored, because the digest is over all of them. Raises
    Unreadable.
    """
    try:
        return Manifest.model_validate_json(body)
    except ValidationError as error:
        raise Unreadable(
            f"the manifest {digest[:12]} has a form that this release can't read; upgrade the registry"
        ) from error


def blobs_of(manifest: Manifest) -> list[BlobSpec]:
    """The blobs that a manifest is made of. Raises Invalid for one with two sizes."""
    if len({(file.sha256, file.size_bytes) for file in manifest.files}) != len(
        {file.sha256 for file in manifest.files}
    ):
        raise Invalid("two files with one SHA-256 have different sizes; hash the files again", param="manifest.files")
    return [blob_of(file.sha256, file.size_bytes) for file in manifest.files]


def blob_of(sha256: str, size_bytes: int) -> BlobSpec:
    """Return a blob as uploads know it. Raises Invalid for a size that no blob can have."""
    try:
        return BlobSpec(sha256=sha256, size_bytes=size_bytes)
    except ValidationError as error:
        message, param = explain_validation(list(error.errors()))
        raise Invalid(f"{message}; hash the file again", param=param) from None
