"""Tables of tokens and of what they allow, of the audit trail, and of the read-only switch: one row while the registry is
read-only, none otherwise. Database triggers refuse to change or remove an entry of the audit trail.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ColumnElement, ForeignKey, Index, Integer, String, or_
from sqlalchemy.orm import Mapped, mapped_column, relationship

from registry.db.types import Model, UtcDateTime, utc_now


class Grant(Model):
    """A role that a token has in one namespace."""

    __tablename__ = "grants"

    token_id: Mapped[str] = mapped_column(ForeignKey("tokens.id", ondelete="CASCADE"), primary_key=True)
    #: A namespace, "-" for names without one, or "*" for all.
    namespace: Mapped[str] = mapped_column(String(64), primary_key=True)
    role: Mapped[str] = mapped_column(String(20))


class Token(Model):
    """A token's hash and holder; the secret itself is not stored."""

    __tablename__ = "tokens"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    #: Who holds it. Tokens with the same name act as one person.
    name: Mapped[str] = mapped_column(String(100))
    secret_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    created_by: Mapped[str] = mapped_column(String(100), default="")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    #: When it was retired, long after its end: since then it has no rights, is in no list, and only names the author of
    #: old records.
    forgotten_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    grants: Mapped[list[Grant]] = relationship(lazy="selectin", cascade="all, delete-orphan")


def in_use(now: datetime | None = None) -> ColumnElement[bool]:
    """The condition that a token is neither revoked nor expired: only then does it allow anything. None: by this server's
    clock.
    """
    return Token.revoked_at.is_(None) & or_(Token.expires_at.is_(None), Token.expires_at > (now or utc_now()))


class ReadOnlyRow(Model):
    """Why the registry is read-only, and since when."""

    __tablename__ = "read_only"

    #: Always 1: there is one switch.
    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    reason: Mapped[str] = mapped_column(String(1000))
    set_by: Mapped[str] = mapped_column(String(100))
    since: Mapped[datetime] = mapped_column(UtcDateTime)


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
