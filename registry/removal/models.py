"""The tables of periodic work, and of the audit entries that were written to files; and how long the database keeps rows
that nobody needs for ever.
"""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True)
class Lifetimes:
    """How long rows are kept, in days."""

    #: The events and the points of a job that has ended.
    events_days: float = 90.0
    #: The attempts at a job that has ended, and the job if it has no result.
    attempts_days: float = 365.0
    #: The rows that a preview has shown.
    previews_days: float = 7.0
    #: What a sweep that has ended keeps of its members: checkpoints of which no version was made, and losses by row.
    sweeps_days: float = 90.0
    #: Pushes that failed.
    failed_days: float = 30.0
    #: The rights of tokens that were revoked or have expired.
    tokens_days: float = 90.0
    #: Answers to requests with a key.
    keyed_days: float = 7.0
    #: What is known about files whose bytes were collected, and that nothing names any more.
    collected_days: float = 30.0
    #: Entries of the audit trail, once they are in a file.
    audit_days: float = 400.0
    #: The folder for these files; None: every entry stays in the database.
    audit_folder: str | None = None
