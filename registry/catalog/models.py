"""Tables of bases, adapters, versions, lineage and aliases."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from registry.db import Model, UtcDateTime, utc_now

_LIVE = text("state IN ('pending', 'ready', 'quarantined', 'archived')")


class BaseModelRow(Model):
    """A base model; one row a fingerprint."""

    __tablename__ = "bases"

    pk: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(String(200), index=True)
    revision: Mapped[str | None] = mapped_column(String(100))
    fingerprint: Mapped[str] = mapped_column(String(64), unique=True)
    weights_digest: Mapped[str] = mapped_column(String(64), index=True)
    architecture: Mapped[str] = mapped_column(String(200))
    location: Mapped[str | None] = mapped_column(Text)
    config: Mapped[dict[str, Any]] = mapped_column(JSON)
    tensors: Mapped[dict[str, list[int]]] = mapped_column(JSON)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    manifest_digest: Mapped[str | None] = mapped_column(ForeignKey("manifests.digest"))
    created_by: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class Adapter(Model):
    """A named series of versions."""

    __tablename__ = "adapters"

    pk: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(129), unique=True)
    #: The number last given; raised in the transaction that publishes, so that none is burned.
    last_number: Mapped[int] = mapped_column(default=0)
    created_by: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class Version(Model):
    """One immutable set of bytes under an adapter's name."""

    __tablename__ = "versions"
    __table_args__ = (
        UniqueConstraint("adapter_pk", "number"),
        Index(
            "uq_versions_live_digest", "adapter_pk", "digest", unique=True, sqlite_where=_LIVE, postgresql_where=_LIVE
        ),
    )

    pk: Mapped[int] = mapped_column(primary_key=True)
    adapter_pk: Mapped[int] = mapped_column(ForeignKey("adapters.pk"))
    number: Mapped[int | None]
    digest: Mapped[str] = mapped_column(String(64), index=True)
    #: Set once the bytes are verified; the same value as `digest`.
    manifest_digest: Mapped[str | None] = mapped_column(ForeignKey("manifests.digest"))
    state: Mapped[str] = mapped_column(String(20))
    kind: Mapped[str] = mapped_column(String(20))
    base_pk: Mapped[int] = mapped_column(ForeignKey("bases.pk"), index=True)
    lora: Mapped[dict[str, Any]] = mapped_column(JSON)
    rank: Mapped[int]
    method: Mapped[str] = mapped_column(String(20))
    quantization: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    tags: Mapped[dict[str, str]] = mapped_column(JSON)
    description: Mapped[str] = mapped_column(Text, default="")
    #: Why it failed or was quarantined.
    refusal: Mapped[str | None] = mapped_column(Text)
    created_by: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)

    adapter: Mapped[Adapter] = relationship(lazy="joined", innerjoin=True)
    base: Mapped[BaseModelRow] = relationship(lazy="joined", innerjoin=True)


class Origin(Model):
    """One making of a version. The first is its lineage; a job that made the same bytes again adds its own."""

    __tablename__ = "version_origins"

    pk: Mapped[int] = mapped_column(primary_key=True)
    version_pk: Mapped[int] = mapped_column(ForeignKey("versions.pk"), index=True)
    #: The job's id; jobs are a later room, so this is no foreign key.
    job: Mapped[str | None] = mapped_column(String(32), index=True)
    attempt: Mapped[int | None]
    dataset_digest: Mapped[str | None] = mapped_column(String(64), index=True)
    dataset: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    training: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    metrics: Mapped[dict[str, float]] = mapped_column(JSON)
    libraries: Mapped[dict[str, str]] = mapped_column(JSON)
    created_by: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class VersionParent(Model):
    """An edge of the lineage graph between two versions."""

    __tablename__ = "version_parents"

    version_pk: Mapped[int] = mapped_column(ForeignKey("versions.pk"), primary_key=True)
    parent_pk: Mapped[int] = mapped_column(ForeignKey("versions.pk"), primary_key=True, index=True)
    relation: Mapped[str] = mapped_column(String(20), primary_key=True)
    weight: Mapped[float | None]


class Alias(Model):
    """A movable name for one version of an adapter."""

    __tablename__ = "aliases"

    adapter_pk: Mapped[int] = mapped_column(ForeignKey("adapters.pk"), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    version_pk: Mapped[int] = mapped_column(ForeignKey("versions.pk"), index=True)
    moved_by: Mapped[str] = mapped_column(String(100))
    moved_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class AliasMoveRow(Model):
    """The history of an alias; only appended to."""

    __tablename__ = "alias_moves"

    pk: Mapped[int] = mapped_column(primary_key=True)
    adapter_pk: Mapped[int] = mapped_column(ForeignKey("adapters.pk"), index=True)
    alias: Mapped[str] = mapped_column(String(64))
    from_number: Mapped[int | None]
    to_number: Mapped[int | None]
    reason: Mapped[str] = mapped_column(Text, default="")
    moved_by: Mapped[str] = mapped_column(String(100))
    moved_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
