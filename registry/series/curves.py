"""Curves to be looked at: those of trainings and of the versions that they made, found for somebody who may see them."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session

from registry.catalog.models import Adapter, Origin, Version
from registry.catalog.versions.finding import find_version, parse_ref_or_member, space_of
from registry.catalog.versions.lifecycle import PULLABLE
from registry.catalog.versions.origins import first_origins
from registry.db.database import Database
from registry.errors import Invalid, NotFound
from registry.jobs.members import find_job_of_member
from registry.jobs.models import Job
from registry.principal import Principal
from registry.series.blocks import Folded
from registry.series.drawing import By, CurveName, Drawing, DrawnTraining, WantedSeries, drawing_of
from registry.series.models import VersionSeries
from registry.series.reading import cells_of_jobs
from sdk.formats.refs import MemberRef, Ref
from sdk.schemas.series import MOST_JOBS
from sdk.schemas.version_records import TrainingRecord

if TYPE_CHECKING:
    from registry.series.cells import Array

#: How many jobs' points are in memory at once.
_AT_ONCE = 20


class _Named(NamedTuple):
    """A version that was asked for."""

    pk: int
    ref: str


class Curves:
    """The service that answers with curves."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def draw(
        self,
        *,
        jobs: Sequence[str] = (),
        refs: Sequence[str] = (),
        by: By = "step",
        keys: Container[str] | None = None,
        who: Principal,
    ) -> Drawing:
        """Return the curves of those of these jobs and versions that the caller may see, in this order, the jobs first.

        Raises Invalid for too many, InvalidName, InvalidRef.
        """
        asked = list(dict.fromkeys([*jobs, *refs]))
        if not 0 < len(asked) <= MOST_JOBS:
            raise Invalid(
                f"{len(asked)} curves are asked for; ask for at least 1 and at most {MOST_JOBS}", param="refs"
            )
        wanted = WantedSeries(keys, by)
        with self._db.read() as session:
            found = _of_jobs(session, list(dict.fromkeys(jobs)), wanted, who)
            found |= _of_versions(session, refs, wanted, who)
        there = {name: one for name, one in found.items() if one.is_drawn(by)}
        drawn = [there[name] for name in asked if name in there]
        return drawing_of(drawn, by, [name for name in asked if name not in there])


def _of_jobs(session: Session, ids: Sequence[str], wanted: WantedSeries, who: Principal) -> dict[str, DrawnTraining]:
    columns = (Job.id, Job.subject, Job.result, Job.request)
    query = select(*columns).where(Job.id.in_(ids), Job.kind == "training", who.within(Job.namespace))
    rows = {row.id: row for row in session.execute(query)} if ids else {}
    cells = _cells_of(session, list(rows), wanted)
    if gone := [job for job in rows if job not in cells]:
        # Points are removed with time; the versions that were made of them have their own.
        for row in session.scalars(select(VersionSeries).where(VersionSeries.job.in_(gone))):
            cells.setdefault(row.job, _chosen(row, wanted))
    found = {}
    for job, asked in rows.items():
        made = (asked.result or {}).get("ref")
        name = CurveName(name=f"{job} {made or asked.subject}", ref=made if isinstance(made, str) else None, job=job)
        found[job] = DrawnTraining(name, cells.get(job, {}), TrainingRecord.read((asked.request or {}).get("spec")))
    return found


def _cells_of(session: Session, jobs: Sequence[str], wanted: WantedSeries) -> dict[str, dict[str, Array]]:
    found: dict[str, dict[str, Array]] = {}
    for begin in range(0, len(jobs), _AT_ONCE):
        found |= cells_of_jobs(session, jobs[begin : begin + _AT_ONCE], wanted)
    return found


def _of_versions(
    session: Session, refs: Sequence[str], wanted: WantedSeries, who: Principal
) -> dict[str, DrawnTraining]:
    named, members = _named(session, refs, who)
    found = _of_jobs(session, list(members.values()), wanted, who)
    found = {ref: found[job] for ref, job in members.items() if job in found}
    for ref, one in found.items():
        one.name = one.name.model_copy(update={"name": ref, "ref": ref})
    pks = [one.pk for one in named.values()]
    kept = {
        row.version_pk: row for row in session.scalars(select(VersionSeries).where(VersionSeries.version_pk.in_(pks)))
    }
    first = select(Origin.version_pk, Origin.training).where(Origin.pk.in_(first_origins(pks)))
    records: dict[int, Any] = {row.version_pk: row.training for row in session.execute(first)} if pks else {}
    # The training's own points are finer than what versions keep of them.
    ids = {row.job for row in kept.values()}
    seen = session.scalars(select(Job.id).where(Job.id.in_(ids), who.within(Job.namespace))).all() if ids else ()
    finer = _cells_of(session, seen, wanted)
    for text, version in named.items():
        row, cells = kept.get(version.pk), {}
        if row is not None:
            cells = _until(finer.get(row.job, {}), row.last_step) or _chosen(row, wanted)
        name = CurveName(name=version.ref, ref=version.ref, job=None if row is None else row.job)
        found[text] = DrawnTraining(name, cells, TrainingRecord.read(records.get(version.pk)))
    return found


def _chosen(row: VersionSeries, wanted: WantedSeries) -> dict[str, Array]:
    return {key: cells for key, cells in Folded.unpacked(row.names, row.data).cells.items() if key in wanted}


def _until(cells: Mapping[str, Array], step: int) -> dict[str, Array]:
    kept = {key: some[some["step"] <= step] for key, some in cells.items()}
    return {key: some for key, some in kept.items() if len(some)}


def _named(session: Session, refs: Sequence[str], who: Principal) -> tuple[dict[str, _Named], dict[str, str]]:
    """The versions that refs name, by these, and the jobs of members of sweeps."""
    numbered: dict[tuple[str, int], str] = {}
    found: dict[str, _Named] = {}
    members: dict[str, str] = {}
    for text in dict.fromkeys(refs):
        ref = parse_ref_or_member(text)
        if isinstance(ref, Ref) and ref.number is not None:
            if who.may("read", space_of(ref.adapter)):
                numbered[ref.adapter, ref.number] = text
            continue
        try:
            if isinstance(ref, MemberRef):
                members[text] = find_job_of_member(session, ref, who).id
            else:
                found[text] = _Named(find_version(session, ref, who).pk, text)
        except NotFound:
            # What the reader may not see is left out, like what is not there.
            continue
    if numbered:
        each = (and_(Adapter.name == name, Version.number == number) for name, number in numbered)
        query = select(Version.pk, Adapter.name, Version.number).select_from(Version)
        query = query.join(Adapter, Adapter.pk == Version.adapter_pk).where(or_(*each), Version.state.in_(PULLABLE))
        for row in session.execute(query):
            text = numbered[row.name, row.number]
            found[text] = _Named(row.pk, text)
    return found, members
