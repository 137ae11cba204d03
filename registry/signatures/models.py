"""The table of signatures."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from registry.db.clock import utc_now
from registry.db.types import Model, UtcDateTime


class Signature(Model):
    """A signature over a manifest, as the writers of a namespace vouch for it; one a key there."""

    __tablename__ = "signatures"
    __table_args__ = (UniqueConstraint("manifest_digest", "namespace", "key_id"),)

    pk: Mapped[int] = mapped_column(primary_key=True)
    manifest_digest: Mapped[str] = mapped_column(ForeignKey("manifests.digest", ondelete="CASCADE"))
    #: Whose readers see it. Nobody can tell here whether it is genuine, so nobody else may take its place.
    namespace: Mapped[str] = mapped_column(String(64))
    #: SHA-256 of the public key's DER form, as whoever handed it in says.
    key_id: Mapped[str] = mapped_column(String(64))
    #: A Sigstore bundle, as JSON.
    bundle: Mapped[str] = mapped_column(Text)
    created_by: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
