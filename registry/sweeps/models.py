"""Tables of sweeps, their members, and what these answered at rungs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
)
from sqlalchemy.orm import Mapped, mapped_column

from registry.db.types import Model, UtcDateTime


class Sweep(Model):
    """One sweep, and how far it is."""

    __tablename__ = "sweeps"
    __table_args__ = (Index("uq_sweeps_owner_submit_key", "owner", "submit_key", unique=True),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    #: Whose it is: a namespace, or "-".
    namespace: Mapped[str] = mapped_column(String(64))
    #: The adapter that the winner becomes a version of.
    adapter: Mapped[str] = mapped_column(String(200))
    #: `sdk.schemas.sweeps.SweepState`.
    state: Mapped[str] = mapped_column(String(20), index=True)
    #: A `SweepSubmission` with every name in it made exact.
    submission: Mapped[dict[str, Any]] = mapped_column(JSON)
    #: Of what was submitted; the same key with another submission is refused.
    submission_digest: Mapped[str] = mapped_column(String(64))
    submit_key: Mapped[str | None] = mapped_column(String(200))
    #: `Principal.owner` of whoever began it, and their name.
    owner: Mapped[str] = mapped_column(String(120))
    created_by: Mapped[str] = mapped_column(String(100))
    #: `Principal.owner` of whoever its members are submitted for: who began it, or let it go on.
    actor: Mapped[str] = mapped_column(String(120))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    #: The same on the database's clock, in seconds since 1970.
    began_at_s: Mapped[float] = mapped_column(Float)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    most_members: Mapped[int]
    message: Mapped[str | None] = mapped_column(Text)
    #: The number of a member.
    winner: Mapped[int | None]
    #: A `SweepVerdict`.
    verdict: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True), deferred=True)
    #: Whether checkpoints of its members are kept.
    kept: Mapped[bool] = mapped_column(default=True)
    #: What the submission and the verdict take in the database; counted for the namespace.
    record_bytes: Mapped[int] = mapped_column(BigInteger, default=0)


class Member(Model):
    """A training of a sweep: proposed, and then with a job."""

    __tablename__ = "sweep_members"

    sweep: Mapped[str] = mapped_column(ForeignKey("sweeps.id", ondelete="CASCADE"), primary_key=True)
    #: Counts from 1; those of a trial follow each other.
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    trial: Mapped[int]
    setting: Mapped[dict[str, Any]] = mapped_column(JSON)
    seed: Mapped[int] = mapped_column(BigInteger)
    #: The earlier trial with the same setting, whose members and scores stand for it, too: it gets no job.
    same_as: Mapped[int | None]
    #: The id of the job that trains it; None: it waits for one, or `reason` says why it gets none. Jobs of members are
    #: not removed before their sweep.
    job: Mapped[str | None] = mapped_column(String(32), index=True)
    #: The id of the job that scores it, if the best is chosen by an evaluation.
    scoring: Mapped[str | None] = mapped_column(String(32))
    #: Whether what that job found is among its metrics.
    scored: Mapped[bool] = mapped_column(default=False)
    #: "finished" or "pruned"; None: not yet, or it failed.
    outcome: Mapped[str | None] = mapped_column(String(20))
    #: Why it has no job, or was not scored, or not made a version.
    reason: Mapped[str | None] = mapped_column(Text)
    #: The step of its checkpoint, and how many it took.
    step: Mapped[int | None]
    steps: Mapped[int | None]
    surplus_steps: Mapped[int] = mapped_column(default=0)
    metrics: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    #: Over its held-out rows; None: it has none that is finite.
    loss: Mapped[float | None] = mapped_column(Float)
    #: As `sdk.schemas.sweeps.MemberResult` has them, not in base64.
    row_losses: Mapped[bytes | None] = mapped_column(LargeBinary, deferred=True)
    row_weights: Mapped[bytes | None] = mapped_column(LargeBinary, deferred=True)
    #: A `SignedManifest` of its worker, if there is one.
    signature: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True), deferred=True)
    #: The version that was made of it.
    ref: Mapped[str | None] = mapped_column(String(300))
    #: What the row takes in the database; counted for the namespace.
    record_bytes: Mapped[int] = mapped_column(BigInteger, default=0)


class Rung(Model):
    """What a member was told at a rung, and the loss that it came with."""

    __tablename__ = "sweep_rungs"
    __table_args__ = (
        ForeignKeyConstraint(["sweep", "number"], ["sweep_members.sweep", "sweep_members.number"], ondelete="CASCADE"),
    )

    sweep: Mapped[str] = mapped_column(String(32), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    rung: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    #: Counts those that came to the rung, from 0, in the order in which they came.
    place: Mapped[int]
    step: Mapped[int]
    loss: Mapped[float] = mapped_column(Float)
    goes_on: Mapped[bool]
