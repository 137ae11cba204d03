"""Tables of bases, adapters, versions, lineage and aliases."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from registry.db.types import Model, UtcDateTime, utc_now

#: `lifecycle.LIVE` as the index has it: it answers queries that say the same.
LIVE_ROWS = text("state IN ('pending', 'ready', 'quarantined', 'archived')")


class BaseModelRow(Model):
    """What a fingerprint stands for: the same for every namespace, and derived by the registry from bytes it has read.

    Until `derived_at` is set, none of the other columns count: what somebody says about a base is in `NamedBase`, with
    its names, locations and files. Nothing reads the columns for these here.
    """

    __tablename__ = "bases"

    pk: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(String(200), index=True)
    revision: Mapped[str | None] = mapped_column(String(100))
    fingerprint: Mapped[str] = mapped_column(String(64), unique=True)
    weights_digest: Mapped[str] = mapped_column(String(64), index=True)
    architecture: Mapped[str] = mapped_column(String(200))
    location: Mapped[str | None] = mapped_column(Text)
    config: Mapped[dict[str, Any]] = mapped_column(JSON, deferred=True)
    #: Large, and not needed by those who only name the base: so it is only read on demand.
    tensors: Mapped[dict[str, list[int]]] = mapped_column(JSON, deferred=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    manifest_digest: Mapped[str | None] = mapped_column(ForeignKey("manifests.digest"))
    created_by: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    #: When config, shapes and size were derived from stored bytes; None if nobody has sent these yet.
    derived_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class NamedBase(Model):
    """A base as one namespace knows it: what it calls it, where it is, and what is said about it there."""

    __tablename__ = "named_bases"
    __table_args__ = (UniqueConstraint("namespace", "base_pk"), Index("ix_named_bases_id_namespace", "id", "namespace"))

    pk: Mapped[int] = mapped_column(primary_key=True)
    #: A namespace, "-" for none, or "*": published for all of them.
    namespace: Mapped[str] = mapped_column(String(64))
    base_pk: Mapped[int] = mapped_column(ForeignKey("bases.pk"), index=True)
    id: Mapped[str] = mapped_column(String(200))
    revision: Mapped[str | None] = mapped_column(String(100))
    location: Mapped[str | None] = mapped_column(Text)
    #: Its files in storage, set once.
    manifest_digest: Mapped[str | None] = mapped_column(ForeignKey("manifests.digest"), index=True)
    weights_digest: Mapped[str] = mapped_column(String(64))
    architecture: Mapped[str] = mapped_column(String(200))
    config: Mapped[dict[str, Any]] = mapped_column(JSON, deferred=True)
    #: {} if the registry has derived them from what this namespace sent, or nobody has said them.
    tensors: Mapped[dict[str, list[int]]] = mapped_column(JSON, deferred=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    #: "claimed" by whoever registered it, "hashed" by a worker of the namespace, or "derived" by the registry.
    facts: Mapped[str] = mapped_column(String(10))
    created_by: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    #: When it got its id; if several bases have the same id, the last one is meant.
    named_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    #: Raised with each change, so that what was read can be cached until then.
    edition: Mapped[int] = mapped_column(default=0)
    #: What its config, tensors and texts take in the database; counted for the namespace. If the registry has derived
    #: the tensors, these are the ones in the other table.
    record_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")

    base: Mapped[BaseModelRow] = relationship(lazy="joined", innerjoin=True)


class Adapter(Model):
    """A named series of versions. To change anything about it, a transaction holds the lock of its row."""

    __tablename__ = "adapters"
    __table_args__ = (Index("ix_adapters_namespace_name", "namespace", "name"),)

    pk: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(129), unique=True)
    #: What precedes the `/` of the name, or "-".
    namespace: Mapped[str] = mapped_column(String(64), default="-")
    #: The last number that was given; raised in the transaction that publishes, so that none is wasted.
    last_number: Mapped[int] = mapped_column(default=0)
    #: The highest number that is ready, which `latest` names; None if there is none.
    latest_number: Mapped[int | None]
    ready_versions: Mapped[int] = mapped_column(default=0)
    #: Bytes of all versions that are not deleted.
    size_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    #: Which versions `gc` keeps, as `sdk.schemas.removal.RetentionRule`; None: all.
    retention: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    created_by: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class Version(Model):
    """One immutable set of bytes under an adapter's name."""

    __tablename__ = "versions"
    __table_args__ = (
        UniqueConstraint("adapter_pk", "number"),
        Index(
            "uq_versions_live_digest",
            "adapter_pk",
            "digest",
            unique=True,
            sqlite_where=LIVE_ROWS,
            postgresql_where=LIVE_ROWS,
        ),
        # Each ends with the key, because lists are read in its order.
        Index("ix_versions_base_pk_rank_pk", "base_pk", "rank", "pk"),
        Index("ix_versions_rank_pk", "rank", "pk"),
        Index("ix_versions_state_pk", "state", "pk"),
        Index("ix_versions_created_by_pk", "created_by", "pk"),
    )

    pk: Mapped[int] = mapped_column(primary_key=True)
    adapter_pk: Mapped[int] = mapped_column(ForeignKey("adapters.pk"))
    number: Mapped[int | None]
    digest: Mapped[str] = mapped_column(String(64), index=True)
    #: Set once the bytes are verified; the same value as `digest`.
    manifest_digest: Mapped[str | None] = mapped_column(ForeignKey("manifests.digest"))
    state: Mapped[str] = mapped_column(String(20))
    kind: Mapped[str] = mapped_column(String(20))
    base_pk: Mapped[int] = mapped_column(ForeignKey("bases.pk"))
    #: What its namespace said about the base when it was published: a name may be given to another base later.
    base_id: Mapped[str] = mapped_column(String(200), server_default="")
    base_revision: Mapped[str | None] = mapped_column(String(100))
    base_weights_digest: Mapped[str] = mapped_column(String(64), server_default="")
    base_architecture: Mapped[str] = mapped_column(String(200), server_default="")
    lora: Mapped[dict[str, Any]] = mapped_column(JSON)
    rank: Mapped[int]
    method: Mapped[str] = mapped_column(String(20))
    quantization: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    tags: Mapped[dict[str, str]] = mapped_column(JSON)
    description: Mapped[str] = mapped_column(Text, default="")
    #: Why it failed or was quarantined.
    refusal: Mapped[str | None] = mapped_column(Text)
    #: What admission accepted but people should know.
    warnings: Mapped[list[str] | None] = mapped_column(JSON)
    #: What was not given when it was published: "quantization", "dataset", "base_revision" …
    unknown: Mapped[list[str]] = mapped_column(JSON, default=list)
    created_by: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now, index=True)
    #: When it got its present state.
    moved_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    #: What this row, its manifest, its origins and its notes take in the database; counted for the namespace.
    record_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")

    adapter: Mapped[Adapter] = relationship(lazy="joined", innerjoin=True)
    base: Mapped[BaseModelRow] = relationship(lazy="joined", innerjoin=True)


class Origin(Model):
    """One way in which a version was made. The first is its lineage; a job that makes the same bytes again adds its
    own, without details if there are many already.
    """

    __tablename__ = "version_origins"

    pk: Mapped[int] = mapped_column(primary_key=True)
    version_pk: Mapped[int] = mapped_column(ForeignKey("versions.pk"), index=True)
    #: The job's id; jobs are a later room, so this is not a foreign key.
    job: Mapped[str | None] = mapped_column(String(32), index=True)
    attempt: Mapped[int | None]
    dataset_digest: Mapped[str | None] = mapped_column(String(64), index=True)
    dataset: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    training: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    metrics: Mapped[dict[str, float]] = mapped_column(JSON)
    libraries: Mapped[dict[str, str]] = mapped_column(JSON)
    #: Which of it was only stated by whoever made the version, by dotted names.
    reported: Mapped[list[str] | None] = mapped_column(JSON)
    created_by: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class VersionDocument(Model):
    """What `resolve` answers for a version, written whenever anything about the version changes."""

    __tablename__ = "version_documents"

    version_pk: Mapped[int] = mapped_column(ForeignKey("versions.pk"), primary_key=True)
    body: Mapped[str] = mapped_column(Text)
    #: Whether it names versions of other namespaces, which not every reader may see.
    foreign: Mapped[bool]


class ServedProbeRow(Model):
    """What a version answers to fixed prompts, as somebody has measured it; engines are held against one of these."""

    __tablename__ = "version_served_probes"
    __table_args__ = (UniqueConstraint("version_pk", "owner"),)

    pk: Mapped[int] = mapped_column(primary_key=True)
    version_pk: Mapped[int] = mapped_column(ForeignKey("versions.pk"))
    #: The token that recorded it; "job" for the training that made the version.
    owner: Mapped[str] = mapped_column(String(120))
    #: 0: the training, 1: a worker or an admin, 2: another sender. The lowest counts, and of these the oldest row.
    standing: Mapped[int]
    #: A `ServedProbe`. Large, so that it is only read on demand.
    probe: Mapped[dict[str, Any]] = mapped_column(JSON, deferred=True)
    created_by: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    record_bytes: Mapped[int] = mapped_column(BigInteger)


class VersionClaims(Model):
    """What the folder that a version was pushed from has told of it, as another registry wrote it.

    Nothing but what shows it reads this table: no rule, search or comparison knows what is only claimed.
    """

    __tablename__ = "version_claims"

    version_pk: Mapped[int] = mapped_column(ForeignKey("versions.pk"), primary_key=True, autoincrement=False)
    #: Exactly what was sent, which its signature is over.
    text: Mapped[str] = mapped_column(Text)
    #: The key that this registry listed when it verified the signature by it; None: there is no such key.
    key_id: Mapped[str | None] = mapped_column(String(64))
    #: The signature that was sent, by whichever key.
    bundle: Mapped[str | None] = mapped_column(Text)
    created_by: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    record_bytes: Mapped[int] = mapped_column(BigInteger)


class VersionTag(Model):
    """A tag of a version, for search; `Version.tags` holds the same."""

    __tablename__ = "version_tags"
    __table_args__ = (Index("ix_version_tags_key_value_version_pk", "key", "value", "version_pk"),)

    version_pk: Mapped[int] = mapped_column(ForeignKey("versions.pk"), primary_key=True)
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(String(200))


class VersionTarget(Model):
    """A target module of a version, for search; `Version.lora` holds the same."""

    __tablename__ = "version_targets"
    __table_args__ = (Index("ix_version_targets_module_version_pk", "module", "version_pk"),)

    version_pk: Mapped[int] = mapped_column(ForeignKey("versions.pk"), primary_key=True)
    module: Mapped[str] = mapped_column(String(200), primary_key=True)


class VersionDataset(Model):
    """One of several datasets that a version was trained on, for lineage and search; `Origin.dataset` holds the same."""

    __tablename__ = "version_datasets"

    version_pk: Mapped[int] = mapped_column(ForeignKey("versions.pk"), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), primary_key=True, index=True)
    weight: Mapped[float | None]


class VersionNote(Model):
    """What somebody noted about a version later; only appended to."""

    __tablename__ = "version_notes"

    pk: Mapped[int] = mapped_column(primary_key=True)
    version_pk: Mapped[int] = mapped_column(ForeignKey("versions.pk"), index=True)
    text: Mapped[str] = mapped_column(Text)
    written_by: Mapped[str] = mapped_column(String(100))
    written_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


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
    __table_args__ = (Index("ix_aliases_name_version_pk", "name", "version_pk"),)

    adapter_pk: Mapped[int] = mapped_column(ForeignKey("adapters.pk"), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    version_pk: Mapped[int] = mapped_column(ForeignKey("versions.pk"), index=True)
    moved_by: Mapped[str] = mapped_column(String(100))
    moved_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class AliasMoveRow(Model):
    """The history of an alias; only appended to."""

    __tablename__ = "alias_moves"
    __table_args__ = (Index("ix_alias_moves_adapter_pk_alias_pk", "adapter_pk", "alias", "pk"),)

    pk: Mapped[int] = mapped_column(primary_key=True)
    adapter_pk: Mapped[int] = mapped_column(ForeignKey("adapters.pk"))
    alias: Mapped[str] = mapped_column(String(64))
    #: "set", "rollback" or "remove".
    kind: Mapped[str] = mapped_column(String(10), default="set")
    from_number: Mapped[int | None]
    to_number: Mapped[int | None]
    reason: Mapped[str] = mapped_column(Text, default="")
    moved_by: Mapped[str] = mapped_column(String(100))
    moved_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    #: The id of the decision that let it move, and what that came to; decisions are a later room, so this is not a foreign
    #: key. None: no policy stood.
    decision: Mapped[str | None] = mapped_column(String(32))
    outcome: Mapped[str | None] = mapped_column(String(12))


class AliasProtection(Model):
    """An alias that only promoters may move."""

    __tablename__ = "alias_protections"

    #: An adapter's name, `NAMESPACE/*`, or `*`.
    scope: Mapped[str] = mapped_column(String(129), primary_key=True)
    alias: Mapped[str] = mapped_column(String(64), primary_key=True)
    created_by: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
