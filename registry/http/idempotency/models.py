"""The table of answered requests."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index, String, Text, false, text
from sqlalchemy.orm import Mapped, mapped_column

from registry.db.clock import utc_now
from registry.db.types import Model, UtcDateTime


class KeyedRequest(Model):
    """A request with a key, and its answer."""

    __tablename__ = "keyed_requests"
    __table_args__ = (
        Index(
            "ix_keyed_requests_long",
            "owner",
            "created_at",
            sqlite_where=text("is_long = 1"),
            postgresql_where=text("is_long"),
        ),
    )

    #: SHA-256 of the caller's token and rights.
    owner: Mapped[str] = mapped_column(String(64), primary_key=True)
    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    #: SHA-256 over method, path, query and body; "claim" for claims, which are the same whatever a worker says about
    #: itself.
    request_digest: Mapped[str] = mapped_column(String(64))
    #: None while it is being worked on.
    status: Mapped[int | None]
    body: Mapped[str | None] = mapped_column(Text)
    #: When it began, or last said that it is still being worked on.
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now, index=True)
    #: Whether the answer is one of those of which only the newest of a caller are kept.
    is_long: Mapped[bool] = mapped_column(default=False, server_default=false())
