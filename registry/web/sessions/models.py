"""Tables of sessions of pages, and of codes that sign in once. Only hashes of secrets are stored."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from registry.db.types import Model, UtcDateTime, utc_now


class WebSession(Model):
    """Somebody who has signed in. It lasts no longer than the token that it was traded for."""

    __tablename__ = "web_sessions"
    __table_args__ = (Index("ix_web_sessions_token_id", "token_id"), Index("ix_web_sessions_seen_at", "seen_at"))

    #: SHA-256 of the cookie's value.
    secret_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    #: None where nobody has a token: in a registry in somebody's own folder, or without authentication.
    token_id: Mapped[str | None] = mapped_column(ForeignKey("tokens.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    #: When it was last used, to a minute; it ends 12 hours later.
    seen_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    #: When it was signed out, or found to have been made by somebody else.
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class SignInCode(Model):
    """A code that is traded for a session once, within a minute."""

    __tablename__ = "sign_in_codes"

    code_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    token_id: Mapped[str | None] = mapped_column(ForeignKey("tokens.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    #: The session that it was traded for; that one ends if somebody else comes with the code.
    session_sha256: Mapped[str | None] = mapped_column(String(64))
