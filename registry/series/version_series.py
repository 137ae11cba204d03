"""What versions keep of the series of the trainings that made them: a few buckets a series, as long as the version is
there.
"""

from __future__ import annotations

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from registry.catalog.models import LIVE_ROWS, Adapter, Version
from registry.jobs.models import Job
from registry.series.blocks import Folded
from registry.series.cells import reduced
from registry.series.models import JobSeries, VersionSeries
from registry.series.reading import cells_of_jobs
from registry.usage.charging import charge, has_room_for_records, record_bytes
from sdk.schemas.catalog import JobRef, VersionView

#: How many buckets of a series a version keeps.
KEPT_BUCKETS = 200


def keep_series(session: Session, job: JobRef, version: VersionView, until: int | None = None) -> None:
    """Keep what a training has measured, or only until a step, for a version that was just made of it.

    Nothing is kept if it has something already, if there is no room for it, or if the attempt has sent no points: those
    that are there may be of steps that it took otherwise.
    """
    series = session.get(JobSeries, job.id)
    if series is None or series.attempt < (job.attempt or 0):
        return
    made = select(Version.pk).join(Adapter, Adapter.pk == Version.adapter_pk)
    made = made.where(Adapter.name == version.adapter, Version.digest == version.digest, LIVE_ROWS)
    pk = session.scalars(made).one()
    cells = cells_of_jobs(session, [job.id], until=until).get(job.id, {})
    if not cells or session.get(VersionSeries, pk) is not None:
        return
    kept = Folded({name: reduced(some, KEPT_BUCKETS) for name, some in cells.items()}, {})
    names, data = kept.packed()
    namespace = session.scalars(select(Job.namespace).where(Job.id == job.id)).one()
    size_bytes = record_bytes(names, data)
    if not has_room_for_records(session, namespace, size_bytes):
        return
    charge(session, namespace, records=size_bytes)
    row = {"last_step": kept.last_step, "names": names, "data": data, "record_bytes": size_bytes}
    session.add(VersionSeries(version_pk=pk, job=job.id, **row))


def give_up_series(session: Session, version: Version) -> None:
    """Give up what deleted versions with the bytes of this one keep: its namespace has no other one left."""
    namespace = version.adapter.namespace
    alike = select(Version.pk).join(Adapter, Adapter.pk == Version.adapter_pk)
    alike = alike.where(Adapter.namespace == namespace, Version.digest == version.digest)
    gone = delete(VersionSeries).where(VersionSeries.version_pk.in_(alike)).returning(VersionSeries.record_bytes)
    charge(session, namespace, records=-sum(session.scalars(gone).all()))
