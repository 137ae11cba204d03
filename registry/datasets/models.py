"""The table of datasets."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from registry.db import Model, UtcDateTime, utc_now


class Dataset(Model):
    """A file of rows; its digest is the SHA-256 of its bytes."""

    __tablename__ = "datasets"

    digest: Mapped[str] = mapped_column(ForeignKey("blobs.sha256"), primary_key=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    format: Mapped[str] = mapped_column(String(20))
    rows: Mapped[int | None]
    shape: Mapped[str | None] = mapped_column(String(40))
    name: Mapped[str] = mapped_column(String(200), default="", index=True)
    created_by: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now, index=True)
    #: When somebody gave its rows up; what was trained on it still names it.
    removed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class DatasetAccess(Model):
    """In which namespaces a dataset was registered: who may read there may use it."""

    __tablename__ = "dataset_access"

    digest: Mapped[str] = mapped_column(ForeignKey("datasets.digest", ondelete="CASCADE"), primary_key=True)
    #: A namespace, or "-" for none.
    namespace: Mapped[str] = mapped_column(String(64), primary_key=True, index=True)
