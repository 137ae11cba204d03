"""Tables of jobs, their events, and the workers that asked for work."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Float, ForeignKey, Index, Integer, String, Text, UniqueConstraint, false, text
from sqlalchemy.orm import Mapped, column_property, mapped_column

from registry.db.types import Model, UtcDateTime, utc_now


class Job(Model):
    """One request, and its progress. `attempt` is the fencing token of the worker that holds it."""

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("created_by", "idempotency_key"),
        Index("uq_jobs_owner_submit_key", "owner", "submit_key", unique=True),
        # One training for each member of a sweep, whoever asks for it at the same moment.
        Index("uq_jobs_sweep_sweep_number", "sweep", "sweep_number", unique=True),
        # The order in which jobs are given out.
        Index("ix_jobs_state_priority_created_at", "state", "priority", "created_at"),
        Index("ix_jobs_namespace_state", "namespace", "state"),
        # The newest jobs of a namespace.
        Index("ix_jobs_namespace_created_at", "namespace", "created_at", "id"),
        # Which namespaces have jobs, and the next one of each.
        Index("ix_jobs_next", "state", "queue", "namespace", "priority", "created_at"),
        # What was made from a version. Without the state, SQLite would rather go through every job that succeeded.
        Index("ix_jobs_kind_subject_state", "kind", "subject", "state"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    #: Whose job it is: a namespace, or "-".
    namespace: Mapped[str] = mapped_column(String(64), default="-")
    kind: Mapped[str] = mapped_column(String(20))
    state: Mapped[str] = mapped_column(String(20))
    #: The adapter that is trained, the ref that is merged, or what is evaluated.
    subject: Mapped[str] = mapped_column(String(300))
    request: Mapped[dict[str, Any]] = mapped_column(JSON)
    request_digest: Mapped[str] = mapped_column(String(64))
    #: Nothing reads it: a caller's keys are in `submit_key`.
    idempotency_key: Mapped[str | None] = mapped_column(String(200))
    submit_key: Mapped[str | None] = mapped_column(String(200))
    #: `Principal.owner` of the submitter, who has keys of their own.
    owner: Mapped[str | None] = mapped_column(String(120))
    priority: Mapped[int] = mapped_column(default=0)
    queue: Mapped[str] = mapped_column(String(10), server_default="gpu")
    #: "any" or "cuda".
    needs_device: Mapped[str] = mapped_column(String(10), server_default="any")
    #: How much memory must be free.
    needs_memory_bytes: Mapped[int | None] = mapped_column(BigInteger)
    #: How much memory a worker must have in all: on its card, or in its machine if it has none. None: any worker may
    #: try.
    least_card_bytes: Mapped[int | None] = mapped_column(BigInteger)
    least_machine_bytes: Mapped[int | None] = mapped_column(BigInteger)
    #: A `JobForecast`; None for kinds without one.
    forecast: Mapped[dict[str, Any] | None] = mapped_column(JSON, deferred=True)
    #: `needs.our_fields` of the server that accepted it: a worker that knows as much may have it. It is negative for a job
    #: that asks for scorers, too, and 0 for one that asks for trackers.
    known_fields: Mapped[int] = mapped_column("needs_release", key="known_fields", default=0, server_default="0")
    #: The fields that its request uses, the users' own scorers and the trackers that it asks for, as `registry.jobs.needs`
    #: writes them; None: any worker may have it.
    needs: Mapped[str | None] = mapped_column("needs_scorers", Text, key="needs")
    #: How long one attempt may run.
    timeout_s: Mapped[float | None] = mapped_column(Float)
    #: When a queued job is tried again, on the database's clock like the lease.
    not_before_s: Mapped[float | None] = mapped_column(Float)
    #: Attempts that failed or were lost; those that a worker gave back don't count.
    failures: Mapped[int] = mapped_column(default=0, server_default="0")
    retry_of: Mapped[str | None] = mapped_column(String(32))
    #: The sweep that it belongs to, and which of its members it trains; None: it scores one.
    sweep: Mapped[str | None] = mapped_column(String(32))
    sweep_number: Mapped[int | None]
    #: Fingerprint of the base that a worker will need, if it is known.
    base_fingerprint: Mapped[str | None] = mapped_column(String(64))
    attempt: Mapped[int] = mapped_column(default=0)
    #: End of the lease on the database's clock, in seconds since 1970; None unless running.
    lease_until_s: Mapped[float | None] = mapped_column(Float)
    worker: Mapped[str | None] = mapped_column(String(200))
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    progress: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    #: `sdk.schemas.trackers.Runs`; None: there are none.
    runs: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    #: What its last attempt was advised so far; None: nothing.
    advice: Mapped[list[Any] | None] = mapped_column(JSON(none_as_null=True))
    reason: Mapped[str | None] = mapped_column(String(40))
    message: Mapped[str | None] = mapped_column(Text)
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    #: What the request with its forecast, the result and the events take in the database. It is counted for the
    #: namespace; of the events, as much as `registry.jobs.events.counted` says.
    record_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    result_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    events_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    taken_bytes: Mapped[int] = column_property(record_bytes + result_bytes, deferred=True)
    created_by: Mapped[str] = mapped_column(String(100))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now, index=True)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class Attempt(Model):
    """One worker's try at a job; written when it claims the job, and when the attempt ends."""

    __tablename__ = "job_attempts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    worker: Mapped[str] = mapped_column(String(200))
    #: `Principal.owner` of the worker that claimed it, which alone may act for it.
    owner: Mapped[str | None] = mapped_column(String(120))
    #: When it ends whatever its worker says, on the database's clock.
    deadline_s: Mapped[float | None] = mapped_column(Float)
    #: "running", "succeeded", "failed", "cancelled", "released" or "lost".
    state: Mapped[str] = mapped_column(String(20))
    reason: Mapped[str | None] = mapped_column(String(40))
    message: Mapped[str | None] = mapped_column(Text)
    started_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime, index=True)


class Checkpoint(Model):
    """The state of a training, as a manifest of files from which any worker can continue."""

    __tablename__ = "job_checkpoints"
    __table_args__ = (
        Index("ix_job_checkpoints_kept", "job_id", sqlite_where=text("kept = 1"), postgresql_where=text("kept")),
    )

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    #: Counts the checkpoints of a job as they are recorded, while its row is locked: no clock orders them.
    seq: Mapped[int] = mapped_column(default=0, server_default="0")
    total: Mapped[int]
    attempt: Mapped[int]
    manifest_digest: Mapped[str] = mapped_column(ForeignKey("manifests.digest"), index=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    #: `sdk.schemas.training_report.TrainingReport`, as if the training had ended there.
    report: Mapped[dict[str, Any]] = mapped_column(JSON)
    #: What the report and the manifest take in the database; counted for the job's namespace.
    record_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    #: Whether a job that has not ended, or had not when this was last checked, resumes from it, or scores it.
    kept: Mapped[bool] = mapped_column(default=False)
    #: None for the last one of a job, until a sweep gives it up, and for those that are kept.
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime, index=True)


class JobEvent(Model):
    """Something that happened to a job; only appended to. `seq` is the readers' cursor."""

    __tablename__ = "job_events"
    __table_args__ = (Index("ix_job_events_job_id_seq", "job_id", "seq"),)

    # SQLite numbers rows itself only in a column of exactly its INTEGER type.
    seq: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    attempt: Mapped[int]
    kind: Mapped[str] = mapped_column(String(20))
    state: Mapped[str | None] = mapped_column(String(20))
    progress: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    message: Mapped[str | None] = mapped_column(Text)
    at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class Peak(Model):
    """How much memory a training took, and what its worker had forecast after reading the rows. Both are what the
    worker said.
    """

    __tablename__ = "job_peaks"
    __table_args__ = (Index("ix_job_peaks_device_at", "device", "at"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    #: What the device calls itself; "cpu" without a card.
    device: Mapped[str] = mapped_column(String(100))
    forecast_bytes: Mapped[int] = mapped_column(BigInteger)
    measured_bytes: Mapped[int] = mapped_column(BigInteger)
    #: Parameters of the base, tokens without padding, and the seconds that these took.
    parameters: Mapped[int | None] = mapped_column(BigInteger)
    tokens: Mapped[int | None] = mapped_column(BigInteger)
    train_s: Mapped[float | None] = mapped_column(Float)
    at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class SeenRows(Model):
    """The first rows of a training, as it saw them: kept as long as its namespace has all of its datasets, and a version that it
    made.
    """

    __tablename__ = "training_rows"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    #: `sdk.schemas.training_rows.TrainingRows`.
    recorded: Mapped[dict[str, Any]] = mapped_column(JSON, deferred=True)
    #: What it takes in the database; counted for the job's namespace.
    record_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class SeenDataset(Model):
    """A dataset of which there are rows in `training_rows`."""

    __tablename__ = "training_row_datasets"

    job_id: Mapped[str] = mapped_column(ForeignKey("training_rows.job_id", ondelete="CASCADE"), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), primary_key=True, index=True)


class Turn(Model):
    """When a namespace last got a worker of a queue."""

    __tablename__ = "job_turns"

    queue: Mapped[str] = mapped_column(String(10), primary_key=True)
    namespace: Mapped[str] = mapped_column(String(64), primary_key=True)
    #: On the database's clock, in seconds since 1970.
    served_at_s: Mapped[float] = mapped_column(Float)


class Sweeper(Model):
    """A process that sweeps: on PostgreSQL the leader, on SQLite each process."""

    __tablename__ = "job_sweepers"

    #: Host and process id.
    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    #: Both on the database's clock, in seconds since 1970.
    since_s: Mapped[float] = mapped_column(Float)
    swept_at_s: Mapped[float] = mapped_column(Float)


class Worker(Model):
    """A worker as it described itself when it last asked for work. Workers of two tokens with the same name are two
    workers.
    """

    __tablename__ = "workers"

    #: `Principal.owner` of its token.
    owner: Mapped[str] = mapped_column(String(120), primary_key=True, server_default="")
    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    device: Mapped[str] = mapped_column(String(20))
    memory_bytes: Mapped[int] = mapped_column(BigInteger)
    free_memory_bytes: Mapped[int] = mapped_column(BigInteger)
    cached_bases: Mapped[list[str]] = mapped_column(JSON)
    shared_paths: Mapped[list[str]] = mapped_column(JSON)
    queues: Mapped[list[str]] = mapped_column(JSON, server_default='["gpu", "cpu"]')
    #: Whether it has said that it takes no more jobs.
    draining: Mapped[bool] = mapped_column(default=False, server_default=false())
    version: Mapped[str] = mapped_column(String(40))
    #: Each field of a request that it knows, and each `ScorerInfo` that it has, or None if it doesn't say, and
    #: each tracker that it has, as `registry.jobs.needs` writes it.
    knows: Mapped[list[str | dict[str, Any] | None] | None] = mapped_column(
        "scorers", JSON(none_as_null=True), key="knows"
    )
    seen_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
