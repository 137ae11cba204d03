"""The tables of quotas, and of what is used."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from registry.db.types import Model, UtcDateTime, utc_now


class Quota(Model):
    """The limits of one namespace; None means no limit."""

    __tablename__ = "quotas"

    #: A namespace, "-" for names without one, "*" for every namespace without limits of its own.
    namespace: Mapped[str] = mapped_column(String(64), primary_key=True)
    max_adapters: Mapped[int | None]
    #: Bytes of all kinds together that `Usage` counts.
    max_bytes: Mapped[int | None] = mapped_column(BigInteger)
    #: Jobs waiting or running.
    max_jobs: Mapped[int | None]
    #: Bytes of rows in the database, as `record_bytes` measures them.
    max_record_bytes: Mapped[int | None] = mapped_column(BigInteger)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now, onupdate=utc_now)


class Usage(Model):
    """What one namespace has: sums of what it refers to, changed by `charge` in the transaction that changes that.

    Bytes that two namespaces refer to count for both, and bytes of two versions in one namespace count twice.
    """

    __tablename__ = "usage"

    #: A namespace, "-" for names without one, "*" for what is published for all, to which no limit applies.
    namespace: Mapped[str] = mapped_column(String(64), primary_key=True)
    #: Names that ever had a version.
    adapters: Mapped[int] = mapped_column(Integer, default=0, server_default="0")
    #: Versions that are not deleted, including those in quarantine.
    versions_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    #: Datasets that were not given up.
    datasets_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    #: Files of bases.
    bases_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    #: Merged models, until a collection removes them.
    merged_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    checkpoints_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    #: Scores by row, until the version is deleted.
    evaluations_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    #: What unfinished upload sessions may still send, or have sent.
    reserved_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    #: Rows in the database, in contrast to files: what bases, versions, evaluations, jobs, checkpoints and upload
    #: sessions say. Each row has its share in its own `record_bytes`.
    records_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
