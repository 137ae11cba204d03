"""Tables of the series of trainings, and of what versions keep of them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from registry.db.types import Model


class JobSeries(Model):
    """How far the points of a training are stored. It is only changed while the job's row is locked."""

    __tablename__ = "job_series"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    #: The newest chunk that was taken: an earlier one that arrives later changes nothing.
    attempt: Mapped[int]
    serial: Mapped[int]
    #: The names of all series that it ever had.
    names: Mapped[list[str]] = mapped_column(JSON)
    #: The step of the newest point; -1: there is none.
    last_step: Mapped[int]
    #: What the blocks take in the database. It is counted for the namespace as `registry.jobs.events.counted` says.
    size_bytes: Mapped[int] = mapped_column(BigInteger)


class SeriesBlock(Model):
    """Points of successive steps of a training, as `registry.series.blocks` writes them."""

    __tablename__ = "job_series_blocks"

    job_id: Mapped[str] = mapped_column(ForeignKey("job_series.job_id", ondelete="CASCADE"), primary_key=True)
    #: Rises with the steps. 0: the buckets of what is older than all blocks.
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    first_step: Mapped[int]
    last_step: Mapped[int]
    #: How many steps have a point in it.
    points: Mapped[int]
    #: What each series has in it, by name.
    names: Mapped[dict[str, Any]] = mapped_column(JSON)
    data: Mapped[bytes] = mapped_column(LargeBinary)
    record_bytes: Mapped[int] = mapped_column(BigInteger)


class VersionSeries(Model):
    """The series of the training that made a version, reduced to a few buckets."""

    __tablename__ = "version_series"

    version_pk: Mapped[int] = mapped_column(ForeignKey("versions.pk"), primary_key=True)
    job: Mapped[str] = mapped_column(String(32), index=True)
    last_step: Mapped[int]
    names: Mapped[dict[str, Any]] = mapped_column(JSON)
    data: Mapped[bytes] = mapped_column(LargeBinary)
    #: Counted for the version's namespace.
    record_bytes: Mapped[int] = mapped_column(BigInteger)
