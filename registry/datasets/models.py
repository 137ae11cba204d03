"""The tables of datasets: a row for the bytes, one for each namespace that registered them, and one for each name
there.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from registry.db.types import Model, UtcDateTime, utc_now


class Dataset(Model):
    """A file of rows; its digest is the SHA-256 of its bytes. It has only what is the same for everybody."""

    __tablename__ = "datasets"

    digest: Mapped[str] = mapped_column(ForeignKey("blobs.sha256"), primary_key=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now, index=True)
    #: When the last namespace gave it up; versions that were trained on it still name it.
    removed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    # Nothing reads the following: what is said of the bytes is in `DatasetAccess`.
    format: Mapped[str] = mapped_column(String(20), default="")
    rows: Mapped[int | None]
    shape: Mapped[str | None] = mapped_column(String(40))
    name: Mapped[str] = mapped_column(String(200), default="", index=True)
    created_by: Mapped[str] = mapped_column(String(100), default="")


class DatasetAccess(Model):
    """A dataset as one namespace registered it: its readers may use it, by the name that was given there.

    What isn't derived from the bytes (name, format, rows, shape) is what that namespace says, and only its readers are
    told.
    """

    __tablename__ = "dataset_access"
    __table_args__ = (Index("ix_dataset_access_name_namespace", "name", "namespace"),)

    digest: Mapped[str] = mapped_column(ForeignKey("datasets.digest", ondelete="CASCADE"), primary_key=True)
    #: A namespace, or "-" for none.
    namespace: Mapped[str] = mapped_column(String(64), primary_key=True, index=True)
    #: The first name that it was given there, which lineage shows; `dataset_numbers` has all the names that find it.
    name: Mapped[str] = mapped_column(String(200), default="")
    format: Mapped[str] = mapped_column(String(20), default="")
    rows: Mapped[int | None]
    shape: Mapped[str | None] = mapped_column(String(40))
    #: Which columns are which keys of a row, unless a caller says otherwise.
    columns: Mapped[str | None] = mapped_column(String(2000))
    created_by: Mapped[str] = mapped_column(String(100), default="")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now, index=True)
    #: When the namespace gave it up: it can't be used there any more, but versions that were trained on it still name
    #: it.
    removed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    dataset: Mapped[Dataset] = relationship(lazy="joined", innerjoin=True)


class DatasetSignatures(Model):
    """What was derived from the rows of a dataset, read in one way, in order to find them in others: see
    `registry.datasets.signatures`.
    """

    __tablename__ = "dataset_signatures"

    digest: Mapped[str] = mapped_column(ForeignKey("datasets.digest", ondelete="CASCADE"), primary_key=True)
    #: Which rows are meant, and how they are read: `Reading.key`.
    reading: Mapped[str] = mapped_column(String(64), primary_key=True)
    #: The file; None if there can't be one.
    blob: Mapped[str | None] = mapped_column(ForeignKey("blobs.sha256"), index=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    #: Why there can't be one, as the rest of a sentence.
    refusal: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class DatasetName(Model):
    """A name of datasets in one namespace; this row is locked while the name is given to a further dataset."""

    __tablename__ = "dataset_names"

    namespace: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    #: The last number that was given.
    newest: Mapped[int]


class DatasetNumber(Model):
    """One dataset under one name: `NAME@v2`. It stays when the dataset is given up, so that a number only ever means
    one dataset.
    """

    __tablename__ = "dataset_numbers"
    __table_args__ = (
        UniqueConstraint("digest", "namespace", "name"),
        Index("ix_dataset_numbers_name", "name"),
    )

    namespace: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    #: From 1; the same bytes under the same name keep theirs.
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    digest: Mapped[str] = mapped_column(ForeignKey("datasets.digest", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
