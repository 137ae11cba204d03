"""The table of evaluations."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from registry.db import Model, UtcDateTime, utc_now


class Evaluation(Model):
    """Scores of one target by one grader."""

    __tablename__ = "evaluations"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
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
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    attempt: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
