"""The first rows of trainings: kept with a job as its worker saw them, and shown to whoever may read its datasets now.

They are rows of datasets, so that they are kept only where the job's namespace has these datasets itself, aren't shown any more
once it has given one of them up, and are removed some time later, or with the last version that the job has made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from sqlalchemy import ColumnElement, delete, exists, or_, select
from sqlalchemy.orm import Session, aliased, undefer

from registry.catalog.models import Origin, Version
from registry.catalog.versions.finding import exact_ref, find_version, parse_ref
from registry.catalog.versions.lifecycle import VersionState
from registry.datasets.finding import is_given, usable_by
from registry.datasets.models import DatasetAccess
from registry.db.database import Database
from registry.db.stored_json import read_stored, table
from registry.errors import Invalid, NotFound
from registry.jobs.models import Job, SeenDataset, SeenRows
from registry.principal import SYSTEM, Principal
from registry.usage.charging import charge, has_room_for_records, record_bytes
from sdk.schemas.job_requests import TrainingRequest
from sdk.schemas.training_rows import MOST_SEEN_BYTES, TrainingRows, TrainingRowsView
from sdk.schemas.version_records import TrainingRecord

_TRAINING = str(TrainingRequest.model_fields["kind"].default)


class TrainedOnRows:
    """The service over the first rows of trainings."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def get(self, ref: str, *, who: Principal) -> TrainingRowsView:
        """Return the first rows by which the weights of the version that a ref names now were trained.

        Raises InvalidName, InvalidRef, NotFound also for rows that nobody has recorded, that the caller may not read or that were
        removed, Unreadable.
        """
        with self._db.read() as session:
            version = find_version(session, parse_ref(ref), who)
            query = select(SeenRows, Origin.training).join(Origin, Origin.job == SeenRows.job_id)
            query = query.join(Job, Job.id == SeenRows.job_id).where(Origin.version_pk == version.pk, ~_closed(who))
            found = session.execute(query.order_by(Origin.pk).limit(1).options(undefer(SeenRows.recorded))).first()
            if found is None:
                raise NotFound(_why_none(session, version), param="ref")
            row, training = found
            datasets = session.scalars(select(SeenDataset.digest).where(SeenDataset.job_id == row.job_id))
            recorded = read_stored(TrainingRows, row.recorded, of=f"the rows of job {row.job_id}")
            return TrainingRowsView(
                ref=exact_ref(version),
                digest=version.digest,
                job=row.job_id,
                datasets=sorted(datasets),
                recorded=_until(recorded, TrainingRecord.read(table(training))),
                created_at=row.created_at,
            )

    def is_there(self, ref: str, *, who: Principal) -> bool:
        """Whether a ref names a version that the caller may see. Raises InvalidName, InvalidRef."""
        try:
            with self._db.read() as session:
                find_version(session, parse_ref(ref), who)
        except NotFound:
            return False
        return True


def keep_rows(session: Session, job: Job, request: TrainingRequest, rows: TrainingRows | None) -> None:
    """Keep the first rows of a training that succeeds in this transaction.

    Nothing is kept if a dataset is another namespace's, whose readers are others, or if there is no room. Raises Invalid for a
    record that is too long.
    """
    if rows is None or session.get(SeenRows, job.id) is not None:
        return
    size_bytes = len(rows.model_dump_json().encode())
    if size_bytes > MOST_SEEN_BYTES:
        raise Invalid(
            f"the first rows of the training have {size_bytes} bytes, and may have {MOST_SEEN_BYTES}; upgrade the worker",
            param="training_rows",
        )
    datasets = {request.data, *(source.data for source in request.sources or ())}
    if not all(is_given(session, digest, job.namespace) for digest in datasets):
        return
    recorded = rows.model_dump(mode="json")
    taken_bytes = record_bytes(recorded)
    if not has_room_for_records(session, job.namespace, taken_bytes):
        return
    charge(session, job.namespace, records=taken_bytes)
    session.add(SeenRows(job_id=job.id, recorded=recorded, record_bytes=taken_bytes))
    session.flush()
    session.add_all(SeenDataset(job_id=job.id, digest=digest) for digest in sorted(datasets))


def give_up_rows(session: Session, version: Version) -> None:
    """Give up the first rows of the trainings that made a deleted version, and no other one that is there."""
    made, other = aliased(Origin), aliased(Version)
    left = exists().where(
        made.job == Origin.job, made.version_pk == other.pk, other.pk != version.pk, other.state != VersionState.DELETED
    )
    jobs = select(Origin.job).where(Origin.version_pk == version.pk, Origin.job.is_not(None), ~left)
    remove_rows(session, session.scalars(select(SeenRows.job_id).where(SeenRows.job_id.in_(jobs))).all())


def due_rows(*, unmade: ColumnElement[bool]) -> ColumnElement[bool]:
    """The condition that the rows of a job are to be removed: its namespace has given up a dataset of it; or no version was made
    by it, and `unmade` is true of the job.
    """
    is_made = exists().where(Origin.job == SeenRows.job_id)
    return or_(_closed(SYSTEM), ~is_made & unmade)


def remove_rows(session: Session, jobs: Collection[str]) -> None:
    """Remove the first rows of these jobs, and count that in their namespaces."""
    query = select(Job.namespace, SeenRows.record_bytes).join(Job, Job.id == SeenRows.job_id)
    freed: Counter[str] = Counter()
    for namespace, size_bytes in session.execute(query.where(SeenRows.job_id.in_(jobs))):
        freed[namespace] += size_bytes
    for kind in (SeenDataset, SeenRows):
        session.execute(delete(kind).where(kind.job_id.in_(jobs)))
    for namespace, size_bytes in sorted(freed.items()):
        charge(session, namespace, records=-size_bytes)


def _closed(who: Principal) -> ColumnElement[bool]:
    """The condition that a dataset of a job isn't in the job's namespace any more, or that the caller may not read it there."""
    held = exists().where(
        DatasetAccess.digest == SeenDataset.digest, DatasetAccess.namespace == Job.namespace, usable_by(who)
    )
    return (
        exists()
        .where(SeenDataset.job_id == SeenRows.job_id, ~held.correlate(SeenDataset, Job))
        .correlate(SeenRows, Job)
    )


def _until(rows: TrainingRows, record: TrainingRecord) -> TrainingRows:
    """Return the rows that the weights of a version have seen: those of a checkpoint, or of the best look, haven't seen what
    later steps took.
    """
    steps = [step for step in (record.checkpoint_step, record.best_step) if step is not None]
    texts = [text for text in rows.texts if all(text.step <= step for step in steps)]
    return rows.model_copy(update={"texts": texts})


def _why_none(session: Session, version: Version) -> str:
    """Say why the first rows of a version aren't shown, and what to do."""
    ref = exact_ref(version)
    made = select(Job.kind, SeenRows.job_id).join(Origin, Origin.job == Job.id)
    made = made.outerjoin(SeenRows, SeenRows.job_id == Job.id).where(Origin.version_pk == version.pk)
    found = session.execute(made.order_by(Origin.pk)).all()
    if any(row.job_id is not None for row in found):
        return (
            f"the rows that {ref} was trained on are not shown: their dataset was removed, or this token may not read it; ask for a "
            "token of the namespace that trained it, or add the dataset again with: adapterctl data add FILE"
        )
    kinds = {row.kind for row in found}
    if _TRAINING not in kinds:
        how = f"made by a job of the kind {min(kinds)}" if kinds else "pushed"
        return f"{ref} was {how}, and not trained here, so no rows were recorded; see where it comes from with: adapterctl lineage {ref}"
    return (
        f"the training of {ref} recorded no rows: an earlier release ran it, its dataset is another namespace's, or there was no room; "
        f"see them as it would learn them with: adapterctl data preview --of {ref}"
    )
