"""The table of the switch: one row while the registry is read-only, none otherwise."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from registry.db.types import Model, UtcDateTime


class ReadOnlyRow(Model):
    """Why the registry is read-only, and since when."""

    __tablename__ = "read_only"

    #: Always 1: there is one switch.
    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    reason: Mapped[str] = mapped_column(String(1000))
    set_by: Mapped[str] = mapped_column(String(100))
    since: Mapped[datetime] = mapped_column(UtcDateTime)
