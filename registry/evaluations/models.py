"""The table of evaluations."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Float, ForeignKey, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from registry.db.types import Model, UtcDateTime, utc_now


class Evaluation(Model):
    """Scores of one target by one grader."""

    __tablename__ = "evaluations"
    __table_args__ = (
        Index(
            "ix_evaluations_unchecked",
            "created_at",
            sqlite_where=text("contamination IS NULL"),
            postgresql_where=text("contamination IS NULL"),
        ),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    #: Whose job made it.
    namespace: Mapped[str] = mapped_column(String(64), default="-")
    #: "code-review@v3", or "base:ID".
    label: Mapped[str] = mapped_column(String(300))
    #: Digest of the version's manifest; None for a bare base.
    digest: Mapped[str | None] = mapped_column(ForeignKey("manifests.digest"), index=True)
    base_fingerprint: Mapped[str] = mapped_column(String(64), index=True)
    dataset_digest: Mapped[str] = mapped_column(ForeignKey("datasets.digest"), index=True)
    grader: Mapped[str] = mapped_column(String(40))
    precision: Mapped[str] = mapped_column(String(20))
    spec: Mapped[dict[str, Any]] = mapped_column(JSON)
    metrics: Mapped[dict[str, float]] = mapped_column(JSON)
    samples: Mapped[list[dict[str, str]]] = mapped_column(JSON)
    libraries: Mapped[dict[str, str]] = mapped_column(JSON)
    #: SHA-256 of the canonical JSON of its conditions.
    spec_digest: Mapped[str | None] = mapped_column(String(64))
    #: The blob with the scores of each row, and its length; None if there was none.
    rows_digest: Mapped[str | None] = mapped_column(String(64), index=True)
    rows_size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    #: `EvaluationReport.scorer_errors`; None if there were none.
    scorer_errors: Mapped[dict[str, str] | None] = mapped_column(JSON(none_as_null=True))
    #: `Contamination`; None if it has not been checked yet.
    contamination: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    #: When the file was given up: with the version or the base, or because newer scores replaced it.
    rows_removed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    attempt: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    #: `Principal.owner` of the worker that handed it in, and its name; None: an earlier release did not keep it.
    scored_by: Mapped[str | None] = mapped_column(String(120))
    scored_by_name: Mapped[str | None] = mapped_column(String(100))
    #: What it takes in the database; counted for the namespace.
    record_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")


class EvaluationPicks(Model):
    """Rows of an evaluation that were picked from its file; the file says the same, and this goes with it."""

    __tablename__ = "evaluation_picks"

    evaluation_id: Mapped[str] = mapped_column(ForeignKey("evaluations.id", ondelete="CASCADE"), primary_key=True)
    #: SHA-256 of the canonical JSON of what was asked: the metric, and what it is compared with.
    question: Mapped[str] = mapped_column(String(64), primary_key=True)
    #: `sdk.schemas.picked_rows.PickedRows`.
    picked: Mapped[dict[str, Any]] = mapped_column(JSON, deferred=True)
    #: What it takes in the database; counted for the evaluation's namespace.
    record_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class EvaluationMetric(Model):
    """One metric of an evaluation of a version, for search; `Evaluation.metrics` holds the same."""

    __tablename__ = "evaluation_metrics"
    __table_args__ = (
        Index("ix_evaluation_metrics_dataset_digest_name_value", "dataset_digest", "name", "value"),
        Index("ix_evaluation_metrics_digest_name", "digest", "name"),
    )

    evaluation_id: Mapped[str] = mapped_column(ForeignKey("evaluations.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    value: Mapped[float] = mapped_column(Float)
    dataset_digest: Mapped[str] = mapped_column(String(64))
    #: Digest of the version.
    digest: Mapped[str] = mapped_column(String(64))
    namespace: Mapped[str] = mapped_column(String(64))


class LatestScore(Model):
    """The newest score of some bytes on a dataset by a metric, for lists and charts; `Evaluation.metrics` holds the same."""

    __tablename__ = "latest_scores"

    #: Whose job made it.
    namespace: Mapped[str] = mapped_column(String(64), primary_key=True)
    #: Digest of the version.
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    dataset_digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    metric: Mapped[str] = mapped_column(String(100), primary_key=True)
    #: Whether it is the one score of its evaluation that is shown where there is room for one.
    is_main: Mapped[bool]
    value: Mapped[float] = mapped_column(Float)
    #: Ends of the 95 % interval; None if they are not known.
    low: Mapped[float | None] = mapped_column(Float)
    high: Mapped[float | None] = mapped_column(Float)
    evaluation_id: Mapped[str] = mapped_column(ForeignKey("evaluations.id"))
    scored_at: Mapped[datetime] = mapped_column(UtcDateTime)


class AdapterScore(Model):
    """The main score that any ready version of an adapter got last, for lists; `LatestScore` holds the same.

    Whoever changes it holds its row before they look which version that is.
    """

    __tablename__ = "adapter_scores"

    adapter_pk: Mapped[int] = mapped_column(ForeignKey("adapters.pk"), primary_key=True, autoincrement=False)
    #: Of the version; None: no ready one has scores, and the rest is None too.
    number: Mapped[int | None]
    dataset_digest: Mapped[str | None] = mapped_column(String(64))
    metric: Mapped[str | None] = mapped_column(String(100))
    value: Mapped[float | None] = mapped_column(Float)
    low: Mapped[float | None] = mapped_column(Float)
    high: Mapped[float | None] = mapped_column(Float)
    evaluation_id: Mapped[str | None] = mapped_column(String(32))
    scored_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
