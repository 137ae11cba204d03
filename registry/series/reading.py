"""Series for readers: of jobs, and of the trainings that made versions; each reduced to as many buckets as asked for."""

from __future__ import annotations

from collections.abc import Collection, Container, Sequence
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.catalog.versions.finding import find_version, parse_ref_or_member
from registry.db.database import Database
from registry.jobs.lifecycle import find_job
from registry.jobs.members import find_job_of_member
from registry.jobs.models import Job
from registry.principal import Principal
from registry.series.blocks import Folded, Points, cells_by_name, joined
from registry.series.cells import as_written, reduced
from registry.series.models import SeriesBlock, VersionSeries
from registry.series.storing import FOLDED
from sdk.formats.refs import MemberRef
from sdk.schemas.series import Buckets, Series

if TYPE_CHECKING:
    from registry.series.cells import Array


#: How many jobs' points are in memory at once.
_AT_ONCE = 20


class SeriesReading:
    """The service that answers with series."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def of_job(self, job_id: str, *, buckets: int | None, keys: Collection[str] | None, who: Principal) -> Series:
        """The series of a job. Raises NotFound."""
        with self._db.read() as session:
            find_job(session, job_id, who)
            cells = cells_of_jobs(session, [job_id], keys).get(job_id)
            if cells is None:
                cells = _left_of_job(session, job_id, keys)
        return _answer(job_id, cells, buckets)

    def of_jobs(
        self, job_ids: Sequence[str], *, buckets: int, keys: Collection[str] | None, who: Principal
    ) -> list[Series]:
        """The series of those of these jobs that the caller may see, in this order."""
        with self._db.read() as session:
            seen = set(session.scalars(select(Job.id).where(Job.id.in_(job_ids), who.within(Job.namespace))))
            ordered = [job for job in dict.fromkeys(job_ids) if job in seen]
            answers: list[Series] = []
            for begin in range(0, len(ordered), _AT_ONCE):
                some = ordered[begin : begin + _AT_ONCE]
                found = cells_of_jobs(session, some, keys)
                found |= {job: _left_of_job(session, job, keys) for job in some if job not in found}
                answers += [_answer(job, found[job], buckets) for job in some]
        return answers

    def of_version(self, ref: str, *, buckets: int | None, keys: Collection[str] | None, who: Principal) -> Series:
        """The series of the training that made the version that a ref names now, or that is a member of a sweep. Raises
        InvalidRef, NotFound.
        """
        parsed = parse_ref_or_member(ref)
        if isinstance(parsed, MemberRef):
            with self._db.read() as session:
                job = find_job_of_member(session, parsed, who)
            return self.of_job(job.id, buckets=buckets, keys=keys, who=who)
        with self._db.read() as session:
            version = find_version(session, parsed, who)
            row = session.get(VersionSeries, version.pk)
        return _answer(None, {}, buckets) if row is None else _answer(row.job, _cells_of(row, keys), buckets)


def cells_of_jobs(
    session: Session, job_ids: Collection[str], keys: Container[str] | None = None, *, until: int | None = None
) -> dict[str, dict[str, Array]]:
    """The cells of each series of each of these jobs that has any; with `until`, without later steps."""
    columns = (SeriesBlock.job_id, SeriesBlock.number, SeriesBlock.points, SeriesBlock.names, SeriesBlock.data)
    query = select(*columns).where(SeriesBlock.job_id.in_(job_ids))
    if until is not None:
        query = query.where(SeriesBlock.first_step <= until)
    folded: dict[str, dict[str, Array]] = {}
    blocks: dict[str, list[Points]] = {}
    for row in session.execute(query.order_by(SeriesBlock.job_id, SeriesBlock.number)):
        if row.number == FOLDED:
            old = Folded.unpacked(row.names, row.data)
            folded[row.job_id] = (old if until is None else old.until(until)[0]).cells
        else:
            points = Points.unpacked(row.points, row.names, row.data).only(keys)
            blocks.setdefault(row.job_id, []).append(points if until is None else points.until(until))
    found = {job: _chosen(cells, keys) for job, cells in folded.items()}
    for job, some in blocks.items():
        found[job] = cells_by_name([found.get(job, {}), _chosen(joined(some).cells(), keys)])
    return found


def _left_of_job(session: Session, job_id: str, keys: Collection[str] | None) -> dict[str, Array]:
    """What a version keeps of a job whose points were removed."""
    of_job = select(VersionSeries).where(VersionSeries.job == job_id)
    row = session.scalars(of_job.order_by(VersionSeries.last_step.desc()).limit(1)).first()
    return {} if row is None else _cells_of(row, keys)


def _cells_of(row: VersionSeries, keys: Collection[str] | None) -> dict[str, Array]:
    return _chosen(Folded.unpacked(row.names, row.data).cells, keys)


def _chosen(cells: dict[str, Array], keys: Container[str] | None) -> dict[str, Array]:
    return {name: some for name, some in cells.items() if len(some) and (keys is None or name in keys)}


def _answer(job: str | None, cells: dict[str, Array], most: int | None) -> Series:
    shown = {name: _shown(some if most is None else reduced(some, most)) for name, some in sorted(cells.items())}
    last = max((buckets.step[-1] for buckets in shown.values()), default=-1)
    return Series.model_construct(job=job, last_step=last, series=shown)


def _shown(cells: Array) -> Buckets:
    plain = {name: cells[name].tolist() for name in ("first", "step", "count")}
    numbers = {name: as_written(cells[name]).tolist() for name in ("min", "max", "last")}
    single = cells["count"] == 1
    mean = cells["mean"].copy()
    mean[single] = as_written(cells["last"][single])
    return Buckets.model_construct(**plain, **numbers, mean=mean.tolist())
