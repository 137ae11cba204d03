"""The table of signatures."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from registry.db.types import Model, UtcDateTime, utc_now


class Signature(Model):
    """A signature over a manifest, for which the writers of a namespace vouch; one per key there."""

    __tablename__ = "signatures"
    __table_args__ = (UniqueConstraint("manifest_digest", "namespace", "key_id"),)

    pk: Mapped[int] = mapped_column(primary_key=True)
    manifest_digest: Mapped[str] = mapped_column(ForeignKey("manifests.digest", ondelete="CASCADE"))
    #: The namespace whose readers see it. Nobody here can tell whether it is genuine, so no other namespace may replace
    #: it.
    namespace: Mapped[str] = mapped_column(String(64))
    #: SHA-256 of the public key's DER form, as the sender says.
    key_id: Mapped[str] = mapped_column(String(64))
    #: A Sigstore bundle, as JSON.
    bundle: Mapped[str] = mapped_column(Text)
    created_by: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
