"""Sets retention rules, and collects garbage."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import ColumnElement, delete, exists, func, null, select, update

from registry.access.audit.service import record
from registry.access.keys import KeyedRequest
from registry.artifacts.models import Upload, UploadBlob, UploadPart
from registry.artifacts.service import Artifacts
from registry.artifacts.uploads import end_expired
from registry.catalog.models import Version
from registry.catalog.versions.finding import find_adapter
from registry.catalog.versions.lifecycle import VersionState
from registry.db.database import Database
from registry.db.types import Model, utc_now
from registry.principal import EVERYWHERE, Principal
from registry.removal.collect import Collection
from registry.removal.garbage import Rules
from registry.removal.retention import delete_outside, find_outside, rule_of
from registry.storage.errors import storage_explained
from sdk.schemas.removal import GcReport, GcRequest, RetentionRule, RetentionView

#: How long answers are kept for requests with a key.
_KEYED_LIFE = timedelta(days=7)
#: A half-written file that nobody has written to for this long belongs to an upload that has ended.
_PARTIAL_LIFE = timedelta(hours=1)


class Removal:
    """The service that removes."""

    def __init__(self, db: Database, artifacts: Artifacts, *, statement_s: float = 60.0) -> None:
        """The database may take `statement_s` for each transaction of a collection."""
        self._db = db
        self._statement_s = statement_s
        self._storage = artifacts.storage

    def retention(self, adapter: str, *, who: Principal) -> RetentionView:
        """The rule of an adapter. Raises InvalidName, NotFound."""
        with self._db.read() as session:
            return RetentionView(adapter=adapter, rule=rule_of(find_adapter(session, adapter, who)))

    def set_retention(self, adapter: str, *, rule: RetentionRule | None, who: Principal) -> RetentionView:
        """Say which versions of an adapter are kept, from the next collection on; None: all.

        Raises InvalidName, NotFound, Forbidden.
        """
        with self._db.write() as session:
            row = find_adapter(session, adapter, who, action="admin", lock=True)
            before, after = row.retention, None if rule is None else rule.model_dump()
            if before != after:
                row.retention = null() if after is None else after
                action = "retention.clear" if after is None else "retention.set"
                record(session, who, action, row.namespace, adapter, before=before, after=after)
        return RetentionView(adapter=adapter, rule=rule)

    def collect(self, *, request: GcRequest, who: Principal) -> GcReport:
        """Apply the retention rules, and remove what nothing refers to any more; a dry run only reports it.

        It may be killed at any moment, and run at the same time as publishers and other collections. Raises Forbidden,
        Unavailable.
        """
        who.require("admin", EVERYWHERE)
        doomed: list[int] = []
        if request.dry_run:
            outside = find_outside(self._db, now=utc_now())
            retired, doomed = [version.ref for version in outside], [version.pk for version in outside]
        else:
            retired = delete_outside(self._db, now=utc_now(), who=who)
        # The clock is read now, so that without a grace period what has just been deleted counts as deleted before.
        now = utc_now()
        merged = request.keep_merged_days
        rules = Rules(
            now=now,
            given_up_before=now - timedelta(hours=request.grace_hours),
            merged_before=None if merged is None else now - timedelta(days=merged),
            dry_run=request.dry_run,
            statement_s=self._statement_s,
            doomed=doomed,
        )
        failed = self._fail_stale(rules)
        collection = Collection(self._db, self._storage, rules)
        collection.run()
        report = GcReport(
            dry_run=request.dry_run,
            retired_versions=retired,
            failed_pending=failed,
            manifests=collection.tally.manifests,
            blobs=collection.tally.blobs,
            freed_bytes=collection.tally.freed_bytes,
            blobs_without_row=collection.strays(),
            rows_without_blob=collection.missing(),
            partial_uploads=self._sweep(request),
            expired_uploads=self._end_uploads(rules),
            keyed_requests=self._clear(KeyedRequest, KeyedRequest.created_at <= now - _KEYED_LIFE, rules),
        )
        if not request.dry_run:
            self._clear(UploadPart, ~exists().where(UploadBlob.stored_as == UploadPart.stored_as), rules)
            self._record(report, request, who)
        return report

    def _fail_stale(self, rules: Rules) -> int:
        """Let publications fail whose publishers died; a publisher that still works on such a row begins a new one."""
        if rules.dry_run:
            with self._db.read(within_s=self._statement_s) as session:
                return session.scalar(select(func.count()).select_from(Version).where(rules.stale_pending())) or 0
        refusal = "its publisher died before the bytes were verified; push it again"
        with self._db.write(within_s=self._statement_s) as session:
            failed = update(Version).where(rules.stale_pending())
            values = {"state": VersionState.FAILED, "refusal": refusal, "moved_at": utc_now()}
            return len(session.scalars(failed.values(**values).returning(Version.pk)).all())

    def _sweep(self, request: GcRequest) -> int:
        age = max(timedelta(hours=request.grace_hours), _PARTIAL_LIFE)
        with self._db.read(within_s=self._statement_s) as session:
            live = (UploadBlob.parts_id.is_not(None), Upload.finished_at.is_(None), Upload.expires_at > utc_now())
            query = select(UploadBlob.parts_id).join(Upload, Upload.id == UploadBlob.upload_id).where(*live)
            keep = {parts_id for parts_id in session.scalars(query) if parts_id is not None}
        with storage_explained():
            return self._storage.sweep(age.total_seconds(), keep=keep, dry_run=request.dry_run)

    def _end_uploads(self, rules: Rules) -> int:
        if rules.dry_run:
            return self._clear(Upload, Upload.expires_at <= rules.now, rules)
        with self._db.write(within_s=self._statement_s) as session:
            return end_expired(session)

    def _clear(self, model: type[Model], condition: ColumnElement[bool], rules: Rules) -> int:
        within = {"within_s": self._statement_s}
        with self._db.read(**within) if rules.dry_run else self._db.write(**within) as session:
            count = session.scalar(select(func.count()).select_from(model).where(condition)) or 0
            if not rules.dry_run:
                session.execute(delete(model).where(condition))
            return count

    def _record(self, report: GcReport, request: GcRequest, who: Principal) -> None:
        counts = report.model_dump(exclude={"dry_run", "retired_versions", "blobs_without_row", "rows_without_blob"})
        after = {
            **counts,
            "retired_versions": len(report.retired_versions),
            "blobs_without_row": report.blobs_without_row.count,
            "rows_without_blob": report.rows_without_blob.count,
            "grace_hours": request.grace_hours,
        }
        with self._db.write() as session:
            record(session, who, "gc.run", EVERYWHERE, "registry", after=after)
