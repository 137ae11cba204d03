"""Tables of policies, approvals, decisions, and of what they are made by."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from registry.db.types import Model, UtcDateTime, utc_now


class Generation(Model):
    """A number that rises with each change of what decisions are made by: of the registry, of a namespace, or of an adapter."""

    __tablename__ = "promotion_generations"

    #: "*", "team/*", or the name of an adapter.
    scope: Mapped[str] = mapped_column(String(129), primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger)


class Policy(Model):
    """One version of the policy of a scope for an alias; only appended to."""

    __tablename__ = "promotion_policies"
    __table_args__ = (UniqueConstraint("scope", "alias", "version"),)

    pk: Mapped[int] = mapped_column(primary_key=True)
    #: An adapter's name, `NAMESPACE/*`, or `*`.
    scope: Mapped[str] = mapped_column(String(129))
    alias: Mapped[str] = mapped_column(String(64))
    version: Mapped[int]
    #: Whose it is: a namespace, "-" for names without one, or "*".
    namespace: Mapped[str] = mapped_column(String(64), index=True)
    #: A `PolicyDocument` with every name in it made exact; None: it was removed.
    document: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    #: Of the document's canonical JSON.
    digest: Mapped[str] = mapped_column(String(64))
    #: How it asks for less than the version before: `registry.promotion.policies.loosening.Loosening`s.
    loosened: Mapped[list[Any]] = mapped_column(JSON)
    #: Whether it does at all: decisions look for such versions.
    loosens: Mapped[bool]
    created_by: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    record_bytes: Mapped[int] = mapped_column(BigInteger, default=0)


class Approval(Model):
    """An approval of a digest for an alias of an adapter, or a veto."""

    __tablename__ = "promotion_approvals"
    __table_args__ = (Index("ix_promotion_approvals_adapter_pk_alias_digest", "adapter_pk", "alias", "digest"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    adapter_pk: Mapped[int] = mapped_column(ForeignKey("adapters.pk"))
    alias: Mapped[str] = mapped_column(String(64))
    digest: Mapped[str] = mapped_column(String(64))
    number: Mapped[int]
    #: "approve" or "disapprove".
    kind: Mapped[str] = mapped_column(String(12))
    reason: Mapped[str] = mapped_column(Text, default="")
    #: `Principal.owner` of whoever gave it, the token's id, and the name.
    owner: Mapped[str] = mapped_column(String(120))
    token_id: Mapped[str | None] = mapped_column(String(32))
    created_by: Mapped[str] = mapped_column(String(100))
    #: Digest over those of all policies that stood for the alias then: with others it no longer counts.
    policies_digest: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    #: On the database's clock, in seconds since 1970.
    created_at_s: Mapped[float]
    withdrawn_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    record_bytes: Mapped[int] = mapped_column(BigInteger, default=0)


class DecisionRow(Model):
    """What was found when an alias was to move; only appended to."""

    __tablename__ = "promotion_decisions"
    __table_args__ = (
        Index("ix_promotion_decisions_adapter_pk_alias_pk", "adapter_pk", "alias", "pk"),
        Index("ix_promotion_decisions_inputs_digest", "inputs_digest"),
    )

    pk: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(String(32), unique=True)
    adapter_pk: Mapped[int] = mapped_column(ForeignKey("adapters.pk"))
    alias: Mapped[str] = mapped_column(String(64))
    #: "set", "rollback" or "remove".
    kind: Mapped[str] = mapped_column(String(10))
    digest: Mapped[str | None] = mapped_column(String(64))
    number: Mapped[int | None]
    from_number: Mapped[int | None]
    #: `sdk.schemas.decisions.DecisionOutcome`.
    outcome: Mapped[str] = mapped_column(String(12))
    moved: Mapped[bool]
    #: The key of the `AliasMoveRow`; None: it did not move.
    move: Mapped[int | None]
    #: `RuleOutcome`s, whole.
    rules: Mapped[list[Any]] = mapped_column(JSON)
    #: `StandingPolicyView`s.
    policies: Mapped[list[Any]] = mapped_column(JSON)
    notes: Mapped[list[str]] = mapped_column(JSON)
    #: `EvaluationRequest`s that would make unknown rules known.
    missing: Mapped[list[Any]] = mapped_column(JSON)
    #: SHA-256 over the identities of all that the rules were judged by: the same gives the same answer.
    inputs_digest: Mapped[str] = mapped_column(String(64))
    reason: Mapped[str] = mapped_column(Text, default="")
    token_id: Mapped[str | None] = mapped_column(String(32))
    decided_by: Mapped[str] = mapped_column(String(100))
    decided_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    record_bytes: Mapped[int] = mapped_column(BigInteger, default=0)


class TriedRows(Model):
    """Bytes of an adapter that were scored on the rows of a dataset, or chosen by them; never removed."""

    __tablename__ = "promotion_tries"
    __table_args__ = (
        Index("ix_promotion_tries_namespace", "namespace"),
        Index("ix_promotion_tries_digest", "digest"),
    )

    #: The adapter's name: members of a sweep are tried before there is an adapter.
    adapter: Mapped[str] = mapped_column(String(129), primary_key=True)
    dataset_digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    #: Of a manifest.
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    #: What precedes the `/` of the adapter's name, or "-".
    namespace: Mapped[str] = mapped_column(String(64))
    #: Which columns of the dataset were which keys of a row, when it was noted first.
    columns: Mapped[str | None] = mapped_column(Text)
    #: "scored" or "chosen".
    how: Mapped[str] = mapped_column(String(8))
    at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    record_bytes: Mapped[int] = mapped_column(BigInteger, default=0)


class SharedRows(Model):
    """How many rows of one dataset are among those of another, by the signatures of both."""

    __tablename__ = "promotion_shared_rows"

    dataset_digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    other_digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    #: Of how the columns of both are read.
    reading: Mapped[str] = mapped_column(String(64), primary_key=True)
    #: Rows of the first, and how many of them occur in the other; None: it could not be found out, and why.
    rows: Mapped[int]
    shared: Mapped[int | None]
    reason: Mapped[str | None] = mapped_column(Text)


class ProbeReplayRow(Model):
    """A version's probe, measured again by a token."""

    __tablename__ = "promotion_probes"
    __table_args__ = (UniqueConstraint("adapter_pk", "digest", "owner"),)

    pk: Mapped[int] = mapped_column(primary_key=True)
    adapter_pk: Mapped[int] = mapped_column(ForeignKey("adapters.pk"))
    digest: Mapped[str] = mapped_column(String(64))
    number: Mapped[int]
    owner: Mapped[str] = mapped_column(String(120))
    token_id: Mapped[str | None] = mapped_column(String(32))
    created_by: Mapped[str] = mapped_column(String(100))
    agrees: Mapped[bool]
    difference: Mapped[float | None]
    tolerance: Mapped[float | None]
    message: Mapped[str] = mapped_column(Text, default="")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    record_bytes: Mapped[int] = mapped_column(BigInteger, default=0)


class StatementRow(Model):
    """The newest statement of a signer about an alias."""

    __tablename__ = "promotion_statements"

    adapter_pk: Mapped[int] = mapped_column(ForeignKey("adapters.pk"), primary_key=True)
    alias: Mapped[str] = mapped_column(String(64), primary_key=True)
    key_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    #: As `AliasStatement.move`.
    move: Mapped[int] = mapped_column(BigInteger)
    digest: Mapped[str] = mapped_column(String(64))
    #: An `AliasStatement`.
    statement: Mapped[dict[str, Any]] = mapped_column(JSON)
    #: In PEM, as the sender says.
    public_key: Mapped[str] = mapped_column(Text)
    bundle: Mapped[str] = mapped_column(Text)
    created_by: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    record_bytes: Mapped[int] = mapped_column(BigInteger, default=0)


#: What an `AutomaticRow` counts for its adapter's namespace, whatever it says at the moment.
AUTOMATIC_BYTES = 1000


class AutomaticRow(Model):
    """What the registry did by itself about a version for an alias; removed when it can't keep anything from being done twice."""

    __tablename__ = "promotion_automatic"
    __table_args__ = (Index("ix_promotion_automatic_state_at", "state", "at"),)

    adapter_pk: Mapped[int] = mapped_column(ForeignKey("adapters.pk"), primary_key=True)
    alias: Mapped[str] = mapped_column(String(64), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    #: Digest over those of all policies that stood then.
    policies_digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    number: Mapped[int]
    #: `registry.promotion.automatic.lifecycle.AutomaticState`.
    state: Mapped[str] = mapped_column(String(10))
    #: Ids of the jobs that score it.
    jobs: Mapped[list[str]] = mapped_column(JSON)
    #: Why it is in this state, or what it waits for.
    message: Mapped[str | None] = mapped_column(Text)
    #: The generations as of when it was last looked at: while they stay, there is nothing new to be found.
    generations: Mapped[list[int]] = mapped_column(JSON)
    at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
