"""The table of quotas."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, String
from sqlalchemy.orm import Mapped, mapped_column

from registry.db import Model, UtcDateTime, utc_now


class Quota(Model):
    """The limits of one namespace; None means none."""

    __tablename__ = "quotas"

    #: A namespace, "-" for names without one, "*" for each that has no limits of its own.
    namespace: Mapped[str] = mapped_column(String(64), primary_key=True)
    max_adapters: Mapped[int | None]
    #: Bytes of all versions that are not deleted.
    max_bytes: Mapped[int | None] = mapped_column(BigInteger)
    #: Jobs that wait or run.
    max_jobs: Mapped[int | None]
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now, onupdate=utc_now)
