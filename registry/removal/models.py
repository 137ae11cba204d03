"""The tables of periodic work, and of the audit entries that were written to files."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Float, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from registry.db.types import Model, UtcDateTime, utc_now


class DailyWork(Model):
    """Work that one process does once a day, and when it last began, on the database's clock."""

    __tablename__ = "daily_work"

    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    begun_at_s: Mapped[float] = mapped_column(Float)


class AuditExport(Model):
    """A range of audit entries that is in a file. Only such entries may be removed from the trail, which triggers
    ensure.
    """

    __tablename__ = "audit_exports"

    #: The first and last entry of the file.
    first_pk: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False
    )
    last_pk: Mapped[int] = mapped_column(BigInteger)
    entries: Mapped[int]
    #: Its name within `REGISTRY_AUDIT_FOLDER`.
    file: Mapped[str] = mapped_column(Text)
    sha256: Mapped[str] = mapped_column(String(64))
    exported_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
