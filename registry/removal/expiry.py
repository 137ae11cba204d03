"""Removes expired rows once a day: events and points of old jobs, failed pushes, ended sessions, old answers.

Nothing is removed that later readers need: alias moves, scores, lineage and its jobs, numbers of deleted versions, and
the name behind a token's id stay. Each batch is a transaction of its own, so a run may be killed at any moment and
continues the next day.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Exists, delete, exists, inspect, null, or_, select, tuple_, update
from sqlalchemy.orm import Session, aliased

from registry.access.keys import KeyedRequest
from registry.access.models import AuditEntry, Grant, Token
from registry.artifacts.models import Blob, ManifestBlob, ManifestRow, UploadBlob, UploadPart
from registry.artifacts.stored_blobs import hold_blobs
from registry.artifacts.uploads import end_expired
from registry.catalog.models import (
    Adapter,
    BaseModelRow,
    NamedBase,
    Origin,
    Version,
    VersionDataset,
    VersionDocument,
    VersionNote,
    VersionParent,
    VersionTag,
    VersionTarget,
)
from registry.catalog.versions.lifecycle import VersionState
from registry.datasets.models import Dataset, DatasetAccess, DatasetSignatures
from registry.db.database import Database
from registry.db.statements import insert_if_new
from registry.db.types import Model, db_epoch_s, utc_now
from registry.errors import RegistryError
from registry.evaluations.models import Evaluation
from registry.evaluations.picking import remove_picks
from registry.jobs import events
from registry.jobs.kinds.known import SHOWING_ROWS
from registry.jobs.lifecycle import FINAL, UNFINISHED
from registry.jobs.models import Attempt, Checkpoint, Job, JobEvent, SeenRows
from registry.jobs.seen_rows import due_rows, remove_rows
from registry.quotas.service import recount
from registry.removal.audit_files import export_oldest, last_exported
from registry.removal.lifetimes import Lifetimes
from registry.removal.models import DailyWork
from registry.series.models import JobSeries
from registry.sweeps.ending import forget_members
from registry.sweeps.models import Member, Sweep
from registry.usage.charging import charge, record_bytes
from sdk.schemas.jobs import JobState

#: How much one transaction removes, so that nobody waits longer than that.
_BATCH = 500
#: The same for upload sessions, of which each may have announced 10,000 files.
_SESSIONS = 20
#: And for sweeps, of which each may have 1,000 members.
_FEW_SWEEPS = 5
#: And for rows of trainings, of which each may have 64 kB.
_FEW_ROWS = 100
_DAY_S = 86_400.0
#: A run that is due doesn't delay its caller longer than this, and continues this much later.
_AT_ONCE_S, _GOES_ON_S = 5.0, 60.0

#: The tables with details of a version; publishing writes these together with the version.
_PARTS_OF_VERSION = (
    Origin,
    VersionDataset,
    VersionDocument,
    VersionNote,
    VersionParent,
    VersionTag,
    VersionTarget,
)

_log = logging.getLogger(__name__)


class Expiry:
    """The service that removes what has expired."""

    def __init__(
        self,
        db: Database,
        lifetimes: Lifetimes,
        *,
        statement_s: float = 60.0,
        also: Mapping[str, Callable[[], int]] | None = None,
    ) -> None:
        """The database may take `statement_s` for each transaction that counts what namespaces have. `also` are the steps
        of rooms above this one, by the kind of their rows.
        """
        self._also = also or {}
        self._db = db
        self._statement_s = statement_s
        self._lifetimes = lifetimes
        #: When a run has to stop, by the monotonic clock; None: when it is done.
        self._until: float | None = None

    def run_if_due(self) -> dict[str, int] | None:
        """Run, unless a run was begun within the last day; return how many rows of each kind were removed, or None."""
        of = DailyWork.name == "expiry"
        due = DailyWork.begun_at_s <= db_epoch_s() - _DAY_S
        with self._db.read() as session:
            known = session.execute(select(due).where(of)).first()
            if known is not None and not known[0]:
                return None
        with self._db.write() as session:
            if known is None:
                insert_if_new(session, DailyWork, name="expiry", begun_at_s=0.0)
            begun = update(DailyWork).where(of, due).values(begun_at_s=db_epoch_s()).returning(DailyWork.name)
            if session.execute(begun).first() is None:
                return None
        self._until = time.monotonic() + _AT_ONCE_S
        try:
            gone = self.run()
            if self._late():
                with self._db.write() as session:
                    session.execute(update(DailyWork).where(of).values(begun_at_s=db_epoch_s() - _DAY_S + _GOES_ON_S))
        finally:
            self._until = None
        return gone

    def sweep(self) -> int:
        """Run if due; return how many rows were removed."""
        return sum((self.run_if_due() or {}).values())

    def _late(self) -> bool:
        return self._until is not None and time.monotonic() > self._until

    def run(self) -> dict[str, int]:
        """Remove all that is due; return how many rows of each kind were removed. If one kind fails, the others are
        still removed.
        """
        steps: dict[str, Callable[[], int]] = {
            "job_events": self._events,
            "job_series": self._series,
            "job_attempts": self._attempts,
            "jobs": self._jobs,
            "previews": self._previews,
            "training_rows": self._training_rows,
            "evaluation_picks": self._picks,
            "sweeps": self._sweeps,
            "failed_versions": self._failed,
            "tokens": self._tokens,
            "keyed_requests": self._keyed,
            "uploads": self._uploads,
            "collected_manifests": self._manifests,
            "collected_blobs": self._blobs,
            "audit_entries": self._audit,
            **self._also,
            # Last, and not about rows: correct the sums of namespaces that were wrong.
            "usage": self._usage,
        }
        gone = {}
        for name, step in steps.items():
            try:
                gone[name] = step()
            except Exception as error:  # noqa: BLE001 - whoever called first on this day has come for something else
                why = error.message if isinstance(error, RegistryError) else type(error).__name__
                _log.warning("expired rows of %s could not be removed; the next run tries again: %s", name, why)
        if any(gone.values()):
            _log.info("removed expired rows: %s", ", ".join(f"{count} {name}" for name, count in gone.items() if count))
        return gone

    def _before(self, days: float) -> datetime:
        return utc_now() - timedelta(days=days)

    def _in_batches(self, batch: Callable[[Session], int], *, size: int = _BATCH) -> int:
        total = 0
        while True:
            with self._db.write() as session:
                count = batch(session)
            total += count
            if count < size or self._late():
                return total

    def _remove(
        self,
        model: type[Model],
        *due: ColumnElement[bool],
        order: Any = None,
        first: Callable[[Session], None] = lambda session: None,
    ) -> int:
        """Remove the rows of a table that are due, in this order; each transaction begins with `first`."""
        key = inspect(model).primary_key
        query = select(*key).where(*due).order_by(order).limit(_BATCH)

        def batch(session: Session) -> int:
            first(session)
            rows = session.execute(query).all()
            if rows:
                session.execute(delete(model).where(tuple_(*key).in_([tuple(row) for row in rows])))
            return len(rows)

        return self._in_batches(batch)

    def _events(self) -> int:
        """In the order in which they came, which is that of their key: the first one that is too young ends the
        search.
        """
        before = self._before(self._lifetimes.events_days)
        over = exists().where(Job.id == JobEvent.job_id, Job.state.in_(FINAL), Job.finished_at < before)
        after = 0
        total = 0
        while True:
            columns = (JobEvent.seq, JobEvent.job_id, JobEvent.at, JobEvent.progress, JobEvent.message)
            old = select(*columns, over.label("over")).where(JobEvent.seq > after)
            with self._db.read() as session:
                rows = session.execute(old.order_by(JobEvent.seq).limit(_BATCH)).all()
            gone = [row for row in rows if row.over and row.at < before]
            if gone:
                freed: Counter[str] = Counter()
                for row in gone:
                    freed[row.job_id] += record_bytes(row.progress, row.message)
                with self._db.write() as session:
                    session.execute(delete(JobEvent).where(JobEvent.seq.in_([row.seq for row in gone])))
                    events.forget(session, freed)
            total += len(gone)
            if len(rows) < _BATCH or rows[-1].at >= before or self._late():
                return total
            after = rows[-1].seq

    def _series(self) -> int:
        """The points of jobs, as long after their end as their events; what versions keep of them stays."""
        over = (Job.state.in_(FINAL), Job.finished_at < self._before(self._lifetimes.events_days))
        query = select(JobSeries.job_id, Job.namespace, JobSeries.size_bytes).join(Job, Job.id == JobSeries.job_id)

        def batch(session: Session) -> int:
            rows = session.execute(query.where(*over).limit(_BATCH)).all()
            session.execute(delete(JobSeries).where(JobSeries.job_id.in_([row.job_id for row in rows])))
            for row in rows:
                charge(session, row.namespace, records=-events.counted(row.size_bytes))
            return len(rows)

        return self._in_batches(batch)

    def _attempts(self) -> int:
        before = self._before(self._lifetimes.attempts_days)
        over = exists().where(Job.id == Attempt.job_id, Job.state.in_(FINAL), Job.finished_at < before)
        return self._remove(Attempt, Attempt.finished_at < before, over, order=Attempt.finished_at)

    def _jobs(self) -> int:
        """Jobs that ended without a result, once their attempts are over, unless anything was made of them."""
        before = self._before(self._lifetimes.attempts_days)
        again = aliased(Job)
        named = (
            exists().where(Attempt.job_id == Job.id),
            exists().where(Checkpoint.job_id == Job.id),
            exists().where(Evaluation.job_id == Job.id),
            exists().where(Origin.job == Job.id),
            exists().where(Member.job == Job.id),
            exists().where(again.retry_of == Job.id, again.state.in_(UNFINISHED)),
        )
        over = (Job.state.in_((JobState.FAILED, JobState.CANCELLED)), Job.finished_at < before)
        query = select(Job.id, Job.namespace, Job.record_bytes, Job.events_bytes, JobSeries.size_bytes)
        query = query.outerjoin(JobSeries, JobSeries.job_id == Job.id)
        query = query.where(*over, *(~one for one in named)).limit(_BATCH)

        def batch(session: Session) -> int:
            rows = session.execute(query).all()
            session.execute(delete(Job).where(Job.id.in_([row.id for row in rows])))
            for row in rows:
                of_events, of_series = events.counted(row.events_bytes), events.counted(row.size_bytes or 0)
                charge(session, row.namespace, records=-row.record_bytes - of_events - of_series)
            return len(rows)

        return self._in_batches(batch)

    def _previews(self) -> int:
        """The rows that previews have shown: some days later, or when their namespace has given up the rows."""
        of = Job.request["data"].as_string()
        held = exists().where(
            DatasetAccess.digest == of, DatasetAccess.namespace == Job.namespace, DatasetAccess.removed_at.is_(None)
        )
        before = self._before(self._lifetimes.previews_days)
        due = (
            select(Job.id, Job.namespace, Job.result_bytes)
            .where(Job.kind.in_(SHOWING_ROWS), Job.state.in_(FINAL), Job.result.is_not(None))
            .where(or_(Job.finished_at < before, ~held))
            .limit(_BATCH)
        )

        def batch(session: Session) -> int:
            rows = session.execute(due).all()
            ids = [row.id for row in rows]
            session.execute(update(Job).where(Job.id.in_(ids)).values(result=null(), result_bytes=0))
            for row in rows:
                charge(session, row.namespace, records=-row.result_bytes)
            return len(ids)

        return self._in_batches(batch)

    def _training_rows(self) -> int:
        """The first rows of trainings: when their namespace has given up a dataset, or none of them became a version."""
        unmade = Job.finished_at < self._before(self._lifetimes.sweeps_days)
        due = (
            select(SeenRows.job_id).join(Job, Job.id == SeenRows.job_id).where(due_rows(unmade=unmade)).limit(_FEW_ROWS)
        )

        def batch(session: Session) -> int:
            jobs = session.scalars(due).all()
            remove_rows(session, jobs)
            return len(jobs)

        return self._in_batches(batch, size=_FEW_ROWS)

    def _picks(self) -> int:
        """The rows that were picked from scores whose file, or whose dataset, was given up."""
        return self._in_batches(lambda session: remove_picks(session, _FEW_ROWS), size=_FEW_ROWS)

    def _sweeps(self) -> int:
        """What sweeps that have ended keep of their members, except for what is shown of them."""
        long = exists().where(Member.sweep == Sweep.id, Member.row_losses.is_not(None))
        over = (Sweep.finished_at < self._before(self._lifetimes.sweeps_days), or_(Sweep.kept, long))
        query = select(Sweep).where(*over).order_by(Sweep.id).limit(_FEW_SWEEPS).with_for_update()

        def batch(session: Session) -> int:
            found = session.scalars(query).all()
            for sweep in found:
                forget_members(session, sweep)
            return len(found)

        return self._in_batches(batch, size=_FEW_SWEEPS)

    def _failed(self) -> int:
        """Failed pushes have no number and no files; their details are removed too, and a collection has removed their
        bytes.

        One from which others were made stays: their lineage names it.
        """
        before = self._before(self._lifetimes.failed_days)
        stale = Version.state.in_((VersionState.FAILED, VersionState.PENDING))
        named = exists().where(VersionParent.parent_pk == Version.pk)

        def batch(session: Session) -> int:
            query = select(Version.pk, Version.record_bytes, Adapter.namespace).join(Adapter)
            query = query.where(stale, Version.number.is_(None), Version.created_at < before, ~named)
            rows = session.execute(query.order_by(Version.pk).limit(_BATCH)).all()
            pks = [row.pk for row in rows]
            for row in rows:
                charge(session, row.namespace, records=-row.record_bytes)
            if pks:
                for part in _PARTS_OF_VERSION:
                    session.execute(delete(part).where(part.version_pk.in_(pks)))
                session.execute(delete(Version).where(Version.pk.in_(pks)))
            return len(pks)

        return self._in_batches(batch)

    def _tokens(self) -> int:
        """Their rights are removed, and no list shows them; the name behind an id in old records stays known."""
        before = self._before(self._lifetimes.tokens_days)
        ended = (Token.expires_at < before) | (Token.revoked_at < before)

        def batch(session: Session) -> int:
            ids = session.scalars(select(Token.id).where(ended, Token.forgotten_at.is_(None)).limit(_BATCH)).all()
            if ids:
                session.execute(delete(Grant).where(Grant.token_id.in_(ids)))
                session.execute(update(Token).where(Token.id.in_(ids)).values(forgotten_at=utc_now()))
            return len(ids)

        return self._in_batches(batch)

    def _keyed(self) -> int:
        due = KeyedRequest.created_at < self._before(self._lifetimes.keyed_days)
        return self._remove(KeyedRequest, due, order=KeyedRequest.created_at)

    def _uploads(self) -> int:
        """Upload sessions that have ended."""
        total = self._in_batches(lambda session: end_expired(session, most=_SESSIONS), size=_SESSIONS)
        with self._db.write() as session:
            session.execute(delete(UploadPart).where(~exists().where(UploadBlob.stored_as == UploadPart.stored_as)))
        return total

    def _usage(self) -> int:
        return 0 if self._late() else recount(self._db, within_s=self._statement_s)

    def _manifests(self) -> int:
        """Manifests whose files were given up, except those by which a version, a base or scores are still known.

        The lists of their files, and their signatures, are removed with them.
        """
        named = (
            exists().where(Version.digest == ManifestRow.digest),
            exists().where(Version.manifest_digest == ManifestRow.digest),
            exists().where(BaseModelRow.manifest_digest == ManifestRow.digest),
            exists().where(NamedBase.manifest_digest == ManifestRow.digest),
            exists().where(Checkpoint.manifest_digest == ManifestRow.digest),
            exists().where(Evaluation.digest == ManifestRow.digest),
        )
        return self._given_up(ManifestRow, named)

    def _blobs(self) -> int:
        """What is known about bytes that were given up, once no manifest, dataset or scores have them. Bytes without a
        row are strays.
        """
        named = (
            exists().where(ManifestBlob.sha256 == Blob.sha256),
            exists().where(Dataset.digest == Blob.sha256),
            exists().where(Evaluation.rows_digest == Blob.sha256),
            exists().where(DatasetSignatures.blob == Blob.sha256),
        )
        return self._given_up(Blob, named)

    def _given_up(self, rows: type[ManifestRow | Blob], named: Sequence[Exists]) -> int:
        """Rows that were given up long ago, and whose digest isn't named anywhere."""
        old = rows.collected_at < self._before(self._lifetimes.collected_days)
        # Nobody can record one of them in the meantime.
        return self._remove(rows, old, *(~one for one in named), first=partial(hold_blobs, alone=True))

    # The audit trail.

    def _audit(self) -> int:
        """Write old entries to files, and remove from the trail those that are in one."""
        folder = self._lifetimes.audit_folder
        if folder is None:
            return 0
        # Also those that a killed run has written but not yet removed.
        total = self._drop_exported()
        before = self._before(self._lifetimes.audit_days)
        # The same moment for all files, because writing a file also adds an entry.
        while not self._late() and export_oldest(self._db, Path(folder), before):
            total += self._drop_exported()
        return total

    def _drop_exported(self) -> int:
        last = last_exported(self._db)
        return 0 if last is None else self._remove(AuditEntry, AuditEntry.pk <= last, order=AuditEntry.pk)
