"""Sets quotas, and says how much of them is used; and counts what namespaces have again from the tables, to compare it
with the running sums.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from sqlalchemy import CompoundSelect, func, literal, select, union_all
from sqlalchemy.orm import Session

from registry.access.audit.service import record
from registry.artifacts.models import ManifestAccess, ManifestRow, Upload
from registry.catalog.models import Adapter, NamedBase, ServedProbeRow, Version, VersionClaims
from registry.catalog.versions.kinds import KEPT, is_merged_only
from registry.datasets.models import Dataset, DatasetAccess
from registry.db.database import Database
from registry.db.statements import insert_if_new, upsert
from registry.db.types import utc_now
from registry.evaluations.models import Evaluation, EvaluationPicks
from registry.jobs.events import counted
from registry.jobs.models import Checkpoint, Job, SeenRows
from registry.jobs.service import unfinished
from registry.principal import EVERYWHERE, Principal, require_namespace
from registry.promotion.models import (
    AUTOMATIC_BYTES,
    Approval,
    AutomaticRow,
    DecisionRow,
    Policy,
    ProbeReplayRow,
    StatementRow,
    TriedRows,
)
from registry.series.models import JobSeries, VersionSeries
from registry.sweeps.models import Member, Sweep
from registry.usage.charging import BYTES, COUNTED, RECORDS, NamespaceLimits, default_limits
from registry.usage.models import Quota, Usage
from sdk.schemas.access import QuotaLimits, QuotaView

_log = logging.getLogger(__name__)


class Quotas:
    """The service over the table of quotas."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def get(self, namespace: str, *, who: Principal) -> QuotaView:
        """The limits of a namespace, and what is used. Raises InvalidName, NotFound."""
        _check(namespace, who)
        with self._db.read() as session:
            return _present(session, namespace)

    def set(self, namespace: str, *, limits: QuotaLimits, who: Principal) -> QuotaView:
        """Limit a namespace from now on, or with "*" every namespace without limits of its own; what exists already
        stays.

        Raises InvalidName, Forbidden: only admins of all may.
        """
        _check(namespace, who)
        who.require("admin", EVERYWHERE)
        with self._db.write() as session:
            before = _present(session, namespace).model_dump(include=set(QuotaLimits.model_fields))
            values = limits.model_dump()
            upsert(session, Quota, {"namespace": namespace}, {**values, "updated_at": utc_now()})
            record(session, who, "quota.set", namespace, namespace, before=before, after=values)
            session.flush()
            session.expire_all()
            return _present(session, namespace)


def _check(namespace: str, who: Principal) -> None:
    hint = "'-' for names without one, or '*' for all without limits of their own"
    require_namespace(namespace, hint, also=("-", EVERYWHERE), param="namespace")
    who.require("read", namespace)


def _present(session: Session, namespace: str) -> QuotaView:
    own = session.get(Quota, namespace)
    row = own or session.get(Quota, EVERYWHERE)
    limits = (
        default_limits(session)
        if row is None
        else NamespaceLimits(**{name: getattr(row, name) for name in QuotaLimits.model_fields})
    )
    row_used = session.get(Usage, namespace)
    # Until the next count sets a wrong sum right, nobody is shown less than nothing.
    used = {name: 0 if row_used is None else max(0, getattr(row_used, name)) for name in COUNTED}
    return QuotaView(
        namespace=namespace,
        **limits._asdict(),
        default=own is None and limits != NamespaceLimits(),
        size_bytes=sum(used[name] for name in BYTES),
        jobs=unfinished(session, namespace),
        **used,
    )


def count_anew(session: Session, namespace: str | None = None) -> dict[str, dict[str, int]]:
    """Return what each namespace has, or only this one: for each that has anything, the columns of its row in
    `usage`.
    """
    found: dict[str, dict[str, int]] = {}
    for name, column, query in _queries():
        chosen = query if namespace is None else query.where(column == namespace)
        for where, count in session.execute(chosen.group_by(column)):
            found.setdefault(where, dict.fromkeys(COUNTED, 0))[name] = int(count or 0)
    return {where: counts for where, counts in found.items() if any(counts.values())}


def _queries() -> Iterator[tuple[str, Any, Any]]:
    """For each column, the namespace by which it is counted and the sum; not grouped yet."""
    space = Adapter.namespace
    yield "adapters", space, select(space, func.count()).where(Adapter.last_number > 0)
    versions = select(space, func.sum(ManifestRow.size_bytes)).select_from(Version)
    versions = versions.join(Adapter, Adapter.pk == Version.adapter_pk)
    versions = versions.join(ManifestRow, ManifestRow.digest == Version.digest)
    yield "versions_bytes", space, versions.where(Version.state.in_(KEPT))
    space = DatasetAccess.namespace
    datasets = select(space, func.sum(Dataset.size_bytes)).join(Dataset, Dataset.digest == DatasetAccess.digest)
    yield "datasets_bytes", space, datasets.where(DatasetAccess.removed_at.is_(None))
    space = NamedBase.namespace
    bases = select(space, func.sum(ManifestRow.size_bytes))
    yield "bases_bytes", space, bases.join(ManifestRow, ManifestRow.digest == NamedBase.manifest_digest)
    space = ManifestAccess.namespace
    merged = select(space, func.sum(ManifestRow.size_bytes))
    merged = merged.join(ManifestRow, ManifestRow.digest == ManifestAccess.manifest_digest)
    yield "merged_bytes", space, merged.where(is_merged_only())
    space = Job.namespace
    checkpoints = select(space, func.sum(Checkpoint.size_bytes)).select_from(Checkpoint)
    yield "checkpoints_bytes", space, checkpoints.join(Job, Job.id == Checkpoint.job_id)
    space = Evaluation.namespace
    rows = select(space, func.sum(Evaluation.rows_size_bytes))
    yield (
        "evaluations_bytes",
        space,
        rows.where(Evaluation.rows_digest.is_not(None), Evaluation.rows_removed_at.is_(None)),
    )
    space = Upload.namespace
    yield "reserved_bytes", space, select(space, func.sum(Upload.reserved_bytes)).where(Upload.finished_at.is_(None))
    taken = _records().subquery()
    yield RECORDS, taken.c.namespace, select(taken.c.namespace, func.sum(taken.c.size_bytes))


def _records() -> CompoundSelect[tuple[str, int]]:
    """For each row that takes room in the database, its namespace and what it takes."""
    size = "size_bytes"
    versions = select(Adapter.namespace, Version.record_bytes.label(size))
    checkpoints = select(Job.namespace, Checkpoint.record_bytes.label(size))
    series = select(Job.namespace, counted(JobSeries.size_bytes).label(size))
    return union_all(
        select(NamedBase.namespace, NamedBase.record_bytes.label(size)),
        versions.select_from(Version).join(Adapter, Adapter.pk == Version.adapter_pk),
        select(Evaluation.namespace, Evaluation.record_bytes.label(size)),
        select(Evaluation.namespace, EvaluationPicks.record_bytes.label(size)).join(
            EvaluationPicks, EvaluationPicks.evaluation_id == Evaluation.id
        ),
        select(Upload.namespace, Upload.record_bytes.label(size)),
        select(Job.namespace, (Job.record_bytes + Job.result_bytes + counted(Job.events_bytes)).label(size)),
        checkpoints.select_from(Checkpoint).join(Job, Job.id == Checkpoint.job_id),
        select(Job.namespace, SeenRows.record_bytes.label(size)).join(SeenRows, SeenRows.job_id == Job.id),
        series.select_from(JobSeries).join(Job, Job.id == JobSeries.job_id),
        select(Adapter.namespace, VersionSeries.record_bytes.label(size))
        .select_from(VersionSeries)
        .join(Version, Version.pk == VersionSeries.version_pk)
        .join(Adapter, Adapter.pk == Version.adapter_pk),
        select(Adapter.namespace, ServedProbeRow.record_bytes.label(size))
        .select_from(ServedProbeRow)
        .join(Version, Version.pk == ServedProbeRow.version_pk)
        .join(Adapter, Adapter.pk == Version.adapter_pk),
        select(Adapter.namespace, VersionClaims.record_bytes.label(size))
        .select_from(VersionClaims)
        .join(Version, Version.pk == VersionClaims.version_pk)
        .join(Adapter, Adapter.pk == Version.adapter_pk),
        select(Policy.namespace, Policy.record_bytes.label(size)),
        select(Sweep.namespace, Sweep.record_bytes.label(size)),
        select(Adapter.namespace, DecisionRow.record_bytes.label(size)).join(
            DecisionRow, DecisionRow.adapter_pk == Adapter.pk
        ),
        select(Adapter.namespace, Approval.record_bytes.label(size)).join(Approval, Approval.adapter_pk == Adapter.pk),
        select(Adapter.namespace, ProbeReplayRow.record_bytes.label(size)).join(
            ProbeReplayRow, ProbeReplayRow.adapter_pk == Adapter.pk
        ),
        select(Sweep.namespace, Member.record_bytes.label(size)).join(Member, Member.sweep == Sweep.id),
        select(TriedRows.namespace, TriedRows.record_bytes.label(size)),
        select(Adapter.namespace, StatementRow.record_bytes.label(size)).join(
            StatementRow, StatementRow.adapter_pk == Adapter.pk
        ),
        select(Adapter.namespace, literal(AUTOMATIC_BYTES).label(size)).join(
            AutomaticRow, AutomaticRow.adapter_pk == Adapter.pk
        ),
    )


def recount(db: Database, *, within_s: float) -> int:
    """Correct sums that are wrong; return for how many namespaces.

    Everything is read in one state of the database, in which both should agree, and nobody has to wait. Only a
    namespace for which they differ is counted again, while nobody can change anything in it.
    """
    with db.read(within_s=within_s) as session:
        added_up = _added_up(session)
        there = count_anew(session)
    nothing = dict.fromkeys(COUNTED, 0)
    differ = [name for name in {*added_up, *there} if added_up.get(name, nothing) != there.get(name, nothing)]
    return sum(_mend(db, namespace, within_s) for namespace in sorted(differ))


def _mend(db: Database, namespace: str, within_s: float) -> bool:
    with db.write(within_s=within_s) as session:
        insert_if_new(session, Usage, namespace=namespace)
        row = session.get_one(Usage, namespace, with_for_update=True, populate_existing=True)
        there = count_anew(session, namespace).get(namespace, dict.fromkeys(COUNTED, 0))
        wrong = {name: (getattr(row, name), count) for name, count in there.items() if getattr(row, name) != count}
        for name, (_, count) in wrong.items():
            setattr(row, name, count)
    if wrong:
        said = ", ".join(f"{name} {was} instead of {count}" for name, (was, count) in wrong.items())
        _log.warning("the usage of the namespace %r was added up wrongly and has been corrected: %s", namespace, said)
    return bool(wrong)


def _added_up(session: Session) -> dict[str, dict[str, int]]:
    rows = session.execute(select(Usage.namespace, *(getattr(Usage, name) for name in COUNTED)))
    return {row.namespace: {name: getattr(row, name) for name in COUNTED} for row in rows}
