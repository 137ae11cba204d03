"""What is garbage: conditions over the tables, the same for a dry run, a real one, and the check while holding the
lock.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Integer,
    Select,
    and_,
    cast,
    exists,
    false,
    func,
    literal,
    or_,
    select,
    type_coerce,
)
from sqlalchemy.dialects.postgresql import JSON

from registry.artifacts.models import Blob, ManifestAccess, ManifestBlob, ManifestRow, Upload, UploadBlob
from registry.catalog.models import NamedBase, Version
from registry.catalog.versions.kinds import is_merged_only
from registry.catalog.versions.lifecycle import LIVE, VersionState
from registry.datasets.models import Dataset, DatasetSignatures
from registry.evaluations.models import Evaluation
from registry.jobs.kinds.known import MODEL_MAKING
from registry.jobs.models import Checkpoint, Job
from sdk.schemas.jobs import JobState

#: A publication that has not ended after this long never will: its upload session is over too.
PENDING_LIFE = timedelta(hours=24)


@dataclass(frozen=True)
class Rules:
    """The moments of one run, and what a dry run has to treat as gone."""

    #: When the run read the clock; anything later is kept.
    now: datetime
    #: Anything that was given up after this moment is kept.
    given_up_before: datetime
    #: Merged models of jobs that ended before this moment are removed; None: none are.
    merged_before: datetime | None
    #: Whether manifests that are to be retired, but have not been, count as retired.
    dry_run: bool
    #: How long the database may take for one transaction, in seconds.
    statement_s: float = 60.0
    #: Keys of versions that are to be deleted, but have not been.
    doomed: Sequence[int] = field(default=())

    def stale_pending(self) -> ColumnElement[bool]:
        """The condition that a version's publisher has died."""
        return and_(Version.state == VersionState.PENDING, Version.created_at <= self.now - PENDING_LIFE)

    def is_doomed(self, dialect: str) -> ColumnElement[bool]:
        """The condition that a version is to be deleted, but has not been."""
        return Version.pk.in_(_numbers(self.doomed, dialect)) if self.doomed else false()

    def retirable(self, dialect: str) -> ColumnElement[bool]:
        """The condition that nothing names a manifest."""
        holds = or_(
            and_(Version.state.in_(LIVE), ~self.stale_pending()),
            and_(Version.state == VersionState.DELETED, Version.moved_at > self.given_up_before),
        )
        # They count as given up just now, which is only long enough ago without a grace period.
        if self.given_up_before >= self.now:
            holds = and_(holds, ~self.is_doomed(dialect))
        uploaded = select(NamedBase.manifest_digest).where(NamedBase.manifest_digest.is_not(None))
        return and_(
            ManifestRow.collected_at.is_(None),
            ManifestRow.created_at <= self.given_up_before,
            ~exists().where(Version.digest == ManifestRow.digest, holds),
            ManifestRow.digest.not_in(uploaded),
            ~exists().where(Checkpoint.manifest_digest == ManifestRow.digest),
            self._is_no_kept_merge(),
        )

    def _is_no_kept_merge(self) -> ColumnElement[bool]:
        """The condition that a manifest isn't a merged model's that is kept for its job: a version's model is removed
        with the version.
        """
        kept = exists().where(ManifestAccess.manifest_digest == ManifestRow.digest, is_merged_only())
        if self.merged_before is None:
            return ~kept
        digest = Job.result["digest"].as_string()
        recent = select(digest).where(
            Job.kind.in_(MODEL_MAKING),
            Job.state == JobState.SUCCEEDED,
            Job.finished_at > self.merged_before,
            digest.is_not(None),
        )
        old = and_(ManifestRow.created_at <= self.merged_before, ManifestRow.digest.not_in(recent))
        return or_(~kept, old)

    def garbage(self, dialect: str) -> ColumnElement[bool]:
        """The condition that nothing names a blob and nobody has announced it."""
        named = exists().where(
            ManifestBlob.sha256 == Blob.sha256,
            ManifestRow.digest == ManifestBlob.manifest_digest,
            ManifestRow.collected_at.is_(None),
            # A real run has retired them by now. Until a manifest is retired, publishing it again relies on its blobs.
            *([~self.retirable(dialect)] if self.dry_run else []),
        )
        dataset = exists().where(Dataset.digest == Blob.sha256, self._holds(Dataset.removed_at))
        scored = exists().where(Evaluation.rows_digest == Blob.sha256, self._holds(Evaluation.rows_removed_at))
        signed = exists().where(
            DatasetSignatures.blob == Blob.sha256,
            Dataset.digest == DatasetSignatures.digest,
            self._holds(Dataset.removed_at),
        )
        old = Blob.created_at <= self.given_up_before
        return and_(
            old,
            ~named,
            ~dataset,
            ~scored,
            ~signed,
            ~exists().where(*self._announces(), UploadBlob.sha256 == Blob.sha256),
        )

    def _holds(self, removed_at: Any) -> ColumnElement[bool]:
        """Whether what was perhaps removed at this time still has its bytes."""
        return or_(removed_at.is_(None), removed_at > self.given_up_before)

    def announced(self, digests: Collection[str]) -> Select[str]:
        """The names in storage under which somebody may send blobs with these digests."""
        return select(UploadBlob.stored_as).where(*self._announces(), UploadBlob.sha256.in_(digests))

    def _announces(self) -> tuple[ColumnElement[bool], ...]:
        return (
            Upload.id == UploadBlob.upload_id,
            Upload.expires_at > self.now,
            # What it announced has another name by now.
            Upload.finished_at.is_(None),
        )


def _numbers(numbers: Sequence[int], dialect: str) -> Select[Any]:
    """The numbers as rows, in one parameter: a statement can't have more than some ten thousand."""
    text = literal(str(list(numbers)))
    if dialect == "postgresql":
        rows = func.json_array_elements_text(cast(text, JSON)).table_valued("value")
        return select(cast(rows.c.value, Integer))
    return select(type_coerce(func.json_each(text).table_valued("value").c.value, Integer))
