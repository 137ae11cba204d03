"""Points as the attempt that holds a job sends them."""

from __future__ import annotations

from collections import Counter

from sqlalchemy import ColumnElement, Select, delete, func, select
from sqlalchemy.orm import Session

from registry.db.database import Database
from registry.errors import Invalid, QuotaExceeded
from registry.jobs import attempts
from registry.jobs.events import counted
from registry.jobs.lifecycle import find_job
from registry.jobs.models import Job
from registry.principal import Principal
from registry.series.blocks import BLOCK, EXACT, Folded, Points, joined
from registry.series.models import JobSeries, SeriesBlock
from registry.usage.charging import charge, has_room_for_records, record_bytes
from sdk.schemas.job_requests import TrainingRequest
from sdk.schemas.series import MOST_SERIES, SentPoints, StoredPoints

#: The block with the buckets of what is older than all others.
FOLDED = 0
_TRAINING = TrainingRequest.model_fields["kind"].default


class StoredSeries:
    """The service that takes points."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def append(self, job_id: str, *, sent: SentPoints, who: Principal) -> StoredPoints:
        """Let points replace all that followed the step after which they come, and say until which step there are all.

        If that is an earlier one, since there is less or a bucket can't be divided, what follows must be sent again. An
        older chunk of the attempt changes nothing. Raises NotFound, StaleAttempt, Invalid for too many series,
        QuotaExceeded: then nothing has changed.
        """
        with self._db.write() as session:
            find_job(session, job_id, who, action="work")
            job = attempts.hold(session, job_id, sent.attempt, who)
            if job.kind != _TRAINING:
                raise Invalid(f"job {job_id} is not a training, so it has no series; leave them out", param="job")
            series = session.get(JobSeries, job_id)
            if series is None:
                series = JobSeries(job_id=job_id, attempt=0, serial=0, names=[], last_step=-1, size_bytes=0)
                session.add(series)
            if (series.attempt, series.serial) < (sent.attempt, sent.serial):
                series.attempt, series.serial = sent.attempt, sent.serial
                _take(session, job, series, sent)
            return StoredPoints(last=series.last_step)


def _take(session: Session, job: Job, series: JobSeries, sent: SentPoints) -> None:
    if sent.after > series.last_step:
        return
    names = sorted({*series.names, *(name for point in sent.points for name in point.values)})
    if len(names) > MOST_SERIES:
        raise Invalid(f"a training has at most {MOST_SERIES} series, and this would have {len(names)}", param="points")
    if sent.after < series.last_step and _cut(session, series, sent.after) < sent.after:
        sent = sent.model_copy(update={"points": []})
    if sent.points:
        _append(session, series.job_id, Points.of(sent.points))
        series.names, series.last_step = names, sent.points[-1].step
    _count(session, job, series)


def _count(session: Session, job: Job, series: JobSeries) -> None:
    """Count what the blocks take now for the job's namespace. Raises QuotaExceeded."""
    blocks = select(func.sum(SeriesBlock.record_bytes)).where(SeriesBlock.job_id == job.id)
    size_bytes = int(session.scalar(blocks) or 0)
    more_bytes = counted(size_bytes) - counted(series.size_bytes)
    if more_bytes > 0 and not has_room_for_records(session, job.namespace, more_bytes):
        raise QuotaExceeded(
            f"the namespace {job.namespace!r} has no room in the database for more points of job {job.id}; remove some records, "
            "or ask an admin to raise the quota: adapterctl quota set"
        )
    charge(session, job.namespace, records=more_bytes)
    series.size_bytes = size_bytes


def _cut(session: Session, series: JobSeries, after: int) -> int:
    """Remove what follows a step, and what precedes it in a bucket that has later steps too; return the step after
    which there is nothing now.
    """
    later = _of(series.job_id, SeriesBlock.last_step > after)
    folded = session.scalars(later.where(SeriesBlock.number == FOLDED)).first()
    step = after
    if folded is not None:
        left, step = Folded.unpacked(folded.names, folded.data).until(after)
        _write_folded(session, series.job_id, left)
    over = SeriesBlock.number != FOLDED, SeriesBlock.first_step > step
    session.execute(delete(SeriesBlock).where(SeriesBlock.job_id == series.job_id, *over))
    across = session.scalars(later.where(SeriesBlock.number != FOLDED)).first()
    if across is not None:
        _write(across, points_of(across).until(step))
    newest = select(func.max(SeriesBlock.last_step)).where(SeriesBlock.job_id == series.job_id)
    last = session.scalar(newest)
    series.last_step = -1 if last is None else last
    return step


def _append(session: Session, job_id: str, points: Points) -> None:
    blocks = _of(job_id, SeriesBlock.number != FOLDED)
    row = session.scalars(blocks.order_by(SeriesBlock.number.desc()).limit(1)).first()
    number = FOLDED + 1
    if row is not None:
        is_full = row.points >= BLOCK
        number = row.number + is_full
        points = points if is_full else joined([points_of(row), points])
        row = None if is_full else row
    begins = range(0, len(points.steps), BLOCK)
    for more, begin in enumerate(begins):
        if row is None:
            row = SeriesBlock(job_id=job_id, number=number + more)
            session.add(row)
        _write(row, points.part(begin, begin + BLOCK))
        row = None
    session.flush()
    if number + len(begins) > EXACT // BLOCK:
        _fold_old(session, job_id)


def _fold_old(session: Session, job_id: str) -> None:
    """Make buckets of the blocks that are older than the newest `EXACT` points."""
    columns = select(SeriesBlock.number, SeriesBlock.points, SeriesBlock.names)
    of_job = SeriesBlock.job_id == job_id, SeriesBlock.number != FOLDED
    blocks = list(session.execute(columns.where(*of_job).order_by(SeriesBlock.number)))
    newer, exact = Counter[str](), 0
    while exact < EXACT and blocks:
        block = blocks.pop()
        exact += block.points
        newer.update(block.names)
    if not blocks:
        return
    old = *of_job, SeriesBlock.number <= blocks[-1].number
    rows = session.scalars(select(SeriesBlock).where(*old).order_by(SeriesBlock.number)).all()
    folded = session.get(SeriesBlock, (job_id, FOLDED))
    before = Folded({}, {}) if folded is None else Folded.unpacked(folded.names, folded.data)
    _write_folded(session, job_id, before.then(joined([points_of(row) for row in rows]), newer))
    session.execute(delete(SeriesBlock).where(*old))


def _of(job_id: str, *conditions: ColumnElement[bool]) -> Select[SeriesBlock]:
    return select(SeriesBlock).where(SeriesBlock.job_id == job_id, *conditions)


def _write_folded(session: Session, job_id: str, folded: Folded) -> None:
    row = session.get(SeriesBlock, (job_id, FOLDED))
    if row is None:
        row = SeriesBlock(job_id=job_id, number=FOLDED)
    if not folded.cells:
        session.delete(row)
        return
    session.add(row)
    row.names, row.data = folded.packed()
    row.first_step, row.last_step, row.points = folded.first_step, folded.last_step, 0
    row.record_bytes = record_bytes(row.names, row.data)


def _write(row: SeriesBlock, points: Points) -> None:
    row.names, row.data = points.names(), points.packed()
    row.first_step, row.last_step = int(points.steps[0]), int(points.steps[-1])
    row.points, row.record_bytes = len(points.steps), record_bytes(row.names, row.data)


def points_of(row: SeriesBlock) -> Points:
    """What a block other than the folded one has."""
    return Points.unpacked(row.points, row.names, row.data)
