"""Tables of blobs, uploads and manifests."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, String, Text, false
from sqlalchemy.orm import Mapped, mapped_column

from registry.db.types import Model, UtcDateTime, utc_now


class Blob(Model):
    """Bytes that are in storage and were hashed there by the registry, unless they have been collected since."""

    __tablename__ = "blobs"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    #: Its name in storage: that of the upload whose bytes were verified, or else its digest.
    stored_as: Mapped[str] = mapped_column(
        String(97), default=lambda context: context.get_current_parameters()["sha256"]
    )
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    #: What admission found when it read them, so that it need not read them again. It may be 16 MiB, so only
    #: `registry.artifacts.long_facts` reads it.
    facts: Mapped[dict[str, Any] | None] = mapped_column(JSON, deferred=True, deferred_raiseload=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    #: When the bytes were given up because nothing named them any more; None again once they are stored again.
    collected_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class Upload(Model):
    """A session in which one caller sends blobs."""

    __tablename__ = "uploads"
    __table_args__ = (Index("ix_uploads_namespace_expires_at", "namespace", "expires_at"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    created_by: Mapped[str] = mapped_column(String(100))
    #: The one token that may use it.
    owner: Mapped[str] = mapped_column(String(120))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
    #: Who pays for what is sent: a namespace, "-" for none, or "*" for what will be published for all.
    namespace: Mapped[str] = mapped_column(String(64), default="-", server_default="-")
    #: The bytes of its blobs that are `reserved`. They count towards the namespace as long as this row exists and is
    #: not finished.
    reserved_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    #: What the list of its blobs takes in the database; counted for the namespace until this row is removed.
    record_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    #: When something was made of its blobs: from then on they belong to that, and no longer to the session.
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class UploadBlob(Model):
    """A blob that a session announced."""

    __tablename__ = "upload_blobs"

    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id", ondelete="CASCADE"), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True, index=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    #: The name in storage under which this caller sends it, or has proven to have it already.
    stored_as: Mapped[str] = mapped_column(String(97))
    #: The storage's id of the parts, if it is sent in parts.
    parts_id: Mapped[str | None] = mapped_column(Text)
    #: Whether room in its namespace is reserved for it by this session, and not by a later one of the same sender.
    reserved: Mapped[bool] = mapped_column(default=False, server_default=false())


class UploadPart(Model):
    """A part that somebody asked to send."""

    __tablename__ = "upload_parts"

    #: What its blob is called in storage.
    stored_as: Mapped[str] = mapped_column(String(97), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    #: Of this part alone.
    sha256: Mapped[str] = mapped_column(String(64))


class ManifestRow(Model):
    """A manifest whose blobs are all verified."""

    __tablename__ = "manifests"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    #: The canonical bytes that the digest is taken over.
    body: Mapped[str] = mapped_column(Text)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    #: When its bytes were given up because nothing named it any more.
    collected_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class ManifestAccess(Model):
    """In which namespaces a manifest was published: their readers may fetch its files."""

    __tablename__ = "manifest_access"

    manifest_digest: Mapped[str] = mapped_column(ForeignKey("manifests.digest", ondelete="CASCADE"), primary_key=True)
    #: A namespace, "-" for names without one, "*" for everybody.
    namespace: Mapped[str] = mapped_column(String(64), primary_key=True)


class ManifestBlob(Model):
    """Which manifests need a blob."""

    __tablename__ = "manifest_blobs"

    manifest_digest: Mapped[str] = mapped_column(ForeignKey("manifests.digest", ondelete="CASCADE"), primary_key=True)
    sha256: Mapped[str] = mapped_column(ForeignKey("blobs.sha256"), primary_key=True, index=True)
