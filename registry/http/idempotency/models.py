"""The table of answered requests."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import String, Text
from sqlalchemy.orm import Mapped, mapped_column

from registry.db.clock import utc_now
from registry.db.types import Model, UtcDateTime


class KeyedRequest(Model):
    """A request that carried a key, and what it was answered."""

    __tablename__ = "keyed_requests"

    #: SHA-256 of the caller's token and rights.
    owner: Mapped[str] = mapped_column(String(64), primary_key=True)
    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    #: SHA-256 over method, path, query and body; "claim" of those, which are the same whatever a worker says of itself.
    request_digest: Mapped[str] = mapped_column(String(64))
    #: None while it is worked on.
    status: Mapped[int | None]
    body: Mapped[str | None] = mapped_column(Text)
    #: When it began, or last said that it is still worked on.
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now, index=True)
