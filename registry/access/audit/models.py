"""The table of the audit trail. Database triggers refuse to change or remove a row."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Index, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from registry.db.clock import utc_now
from registry.db.types import Model, UtcDateTime


class AuditEntry(Model):
    """One change, written in the transaction that made it."""

    __tablename__ = "audit_entries"
    __table_args__ = (
        Index("ix_audit_entries_namespace_pk", "namespace", "pk"),
        Index("ix_audit_entries_action_pk", "action", "pk"),
        Index("ix_audit_entries_actor_pk", "actor", "pk"),
        Index("ix_audit_entries_subject_pk", "subject", "pk"),
    )

    # SQLite numbers rows itself only in a column of exactly its INTEGER type.
    pk: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    #: The name of the token.
    actor: Mapped[str] = mapped_column(String(100))
    token_id: Mapped[str | None] = mapped_column(String(32))
    #: "alias.move", "version.archive", "token.revoke" …
    action: Mapped[str] = mapped_column(String(40))
    #: Whose admins may see it: those of a namespace, "-" for names without one, "*" for the whole registry.
    namespace: Mapped[str] = mapped_column(String(64))
    #: What it was done to: "team/code-review@v3", a token's id, a digest.
    subject: Mapped[str] = mapped_column(String(300))
    before: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    after: Mapped[dict[str, Any] | None] = mapped_column(JSON)
