"""The table of server processes: the figures of each, written by itself."""

from __future__ import annotations

from sqlalchemy import Float, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from registry.db.types import Model


class ServerProcess(Model):
    """What one server process last reported."""

    __tablename__ = "server_processes"

    #: Its host and process id.
    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    #: When, in seconds since 1970 by the database's clock.
    seen_at_s: Mapped[float] = mapped_column(Float)
    #: A `ProcessFigures` as JSON.
    figures: Mapped[str] = mapped_column(Text)
