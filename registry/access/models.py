"""Tables of tokens and of what they allow."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ColumnElement, ForeignKey, String, or_
from sqlalchemy.orm import Mapped, mapped_column, relationship

from registry.db.clock import utc_now
from registry.db.types import Model, UtcDateTime


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


def in_use() -> ColumnElement[bool]:
    """The condition that a token is neither revoked nor expired: only then does it allow anything."""
    return Token.revoked_at.is_(None) & or_(Token.expires_at.is_(None), Token.expires_at > utc_now())
