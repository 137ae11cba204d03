"""Which rows a version and all its ancestors were trained on, as far as their records say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session, raiseload

from registry.catalog.models import Origin, Version, VersionParent
from registry.catalog.versions.finding import exact_ref, find_version, parse_ref
from registry.catalog.versions.origins import MOST_ORIGINS, READ
from registry.datasets.finding import names_of
from registry.datasets.models import DatasetAccess
from registry.datasets.signatures import Reading
from registry.db.stored_json import table
from registry.errors import NotFound
from registry.jobs.checkpoints import publishable
from registry.jobs.members import IS_RESULT, KeptMember
from registry.jobs.models import Checkpoint, Job
from registry.principal import SYSTEM
from sdk.formats.columns import canonical_columns
from sdk.formats.refs import MemberRef
from sdk.schemas.version_records import TrainingRecord

#: Relations to versions that a version is made of: it was trained on what they were trained on.
_MADE_OF = ("combined-from", "merged-from")
#: How many versions are looked at: a chain of trainings can be of any length.
_MOST_VERSIONS = 1000


@dataclass
class TrainedOn:
    """Datasets by digest and reading, with their names, and why others are not known, each as the rest of a
    sentence.
    """

    rows: dict[tuple[str, Reading], str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)


class _Training(NamedTuple):
    """What is stored of one training."""

    digest: str
    dataset: Any
    training: Any


def trained_on(session: Session, label: str, digest: str, namespace: str) -> TrainedOn:
    """Find what a version, or a member of a sweep, was trained on, for the readers of a namespace: nobody learns how many rows are the same as
    rows that they may not read. If its own record doesn't say, as with a copy that was pushed, the records of that
    namespace's versions with the same bytes are used.
    """
    found = TrainedOn()
    query = select(Version).options(raiseload(Version.base))
    same = session.scalars(query.where(Version.digest == digest).order_by(Version.pk)).unique().all()
    here = [one for one in same if one.adapter.namespace == namespace]
    wanted = [one for one in same if exact_ref(one) == label] or here
    wanted = [one for one in dict.fromkeys([*wanted, *here]) if _says(session, one)] or wanted
    if not wanted and (members := _members_with(session, digest, namespace)):
        wanted = [parent for member in members for parent in _look_at_member(session, member, namespace, found)]
    elif not wanted:
        found.unknown.append(f"{label} is not there any more")
    seen: set[int] = set()
    while wanted:
        seen |= {one.pk for one in wanted}
        parents: set[int] = set()
        for version in wanted:
            parents |= _look_at(session, version, namespace, found)
        if len(seen) >= _MOST_VERSIONS:
            found.unknown.append(f"it came from more than {_MOST_VERSIONS} versions")
            break
        wanted = list(session.scalars(query.where(Version.pk.in_(parents - seen)).order_by(Version.pk)).unique())
    return found


def _members_with(session: Session, digest: str, namespace: str) -> list[KeptMember]:
    """The members of sweeps of a namespace that have kept these bytes."""
    query = select(Checkpoint, Job).join(Job, Job.id == Checkpoint.job_id).order_by(Checkpoint.job_id)
    of = (Checkpoint.manifest_digest == digest, Job.namespace == namespace, Job.sweep.is_not(None), IS_RESULT)
    rows = session.execute(query.where(*of).limit(MOST_ORIGINS))
    return [KeptMember(MemberRef(job.sweep or "", job.sweep_number or 0), job, kept) for kept, job in rows]


def _look_at_member(session: Session, member: KeptMember, namespace: str, found: TrainedOn) -> list[Version]:
    """Note what a member was trained on; return the versions that it continues."""
    settled, _, _ = publishable(session, member.job, member.kept, TrainingRecord())
    if settled.dataset is not None:
        training = _Training(settled.dataset.digest, settled.dataset.model_dump(mode="json"), settled.training)
        for said in _add(session, training, str(member.ref), True, namespace, found):
            _note(found, said)
    parents = []
    for parent in settled.parents:
        try:
            parents.append(find_version(session, parse_ref(parent.ref), SYSTEM))
        except NotFound:
            _note(found, f"{parent.ref} is not there any more")
    return parents


def _says(session: Session, version: Version) -> bool:
    """Whether the record of a version says what it was trained on, or what it was made of."""
    return bool(_trainings(session, version)) or any(how in _MADE_OF for _, how in _edges(session, version))


def _trainings(session: Session, version: Version) -> list[_Training]:
    rows = select(Origin).where(Origin.version_pk == version.pk).order_by(Origin.pk).limit(MOST_ORIGINS + 1)
    return [
        _Training(origin.dataset_digest, origin.dataset, origin.training)
        for origin in session.scalars(rows)
        if origin.dataset_digest is not None
    ]


def _edges(session: Session, version: Version) -> list[tuple[int, str]]:
    """The key of each parent, and what the version has of it."""
    edges = select(VersionParent.parent_pk, VersionParent.relation).where(VersionParent.version_pk == version.pk)
    return [(parent, relation) for parent, relation in session.execute(edges)]


def _look_at(session: Session, version: Version, namespace: str, found: TrainedOn) -> set[int]:
    """Note what one version was trained on; return the keys of its parents."""
    own = version.adapter.namespace == namespace
    label = exact_ref(version) if own else "a version of another namespace"
    trained = _trainings(session, version)
    if not _says(session, version):
        _note(found, f"what {label} was trained on is not known")
    if len(trained) > MOST_ORIGINS:
        _note(found, f"{label} was made more than {MOST_ORIGINS} times, and only the first are looked at")
    for training in trained[:MOST_ORIGINS]:
        for said in _add(session, training, label, own, namespace, found):
            _note(found, said)
    return {parent for parent, _ in _edges(session, version)}


def _add(
    session: Session, training: _Training, label: str, own: bool, namespace: str, found: TrainedOn
) -> Iterator[str]:
    """Add the rows of one training, which may be from several datasets; yield the reasons why some can't be added."""
    digests = _digests(training)
    names: dict[str, str] = {}
    for digest in digests:
        rows = f"the rows {digest[:12]} of {label}" if own else f"the rows of {label}"
        access = session.get(DatasetAccess, (digest, namespace))
        if access is None:
            yield f"{rows} are not in this namespace"
            continue
        given = names_of(session, [access]).get((digest, namespace), [])
        name = f"{given[0].name}@v{given[0].number}" if given else digest[:12]
        if access.removed_at is not None:
            yield f"the rows {name} were removed"
            continue
        names[digest] = name
    reading = _reading(table(training.training), table(table(training.dataset).get("rendering")))
    for digest, name in names.items():
        if reading is None:
            yield f"the record of {label} does not say which of the rows {name} it was trained on"
        elif reading.how is None:
            found.rows[digest, reading] = name
    if reading is not None and reading.how is not None and names:
        if len(names) < len(digests):
            yield f"rows were held out of all datasets of {label} together, so the others are not looked at alone"
        else:
            found.rows[digests[0], replace(reading, beside=tuple(digests[1:]))] = ", ".join(names.values())


def _digests(training: _Training) -> list[str]:
    """Return the digests of all datasets of a training."""
    sources = table(training.dataset).get("sources")
    named = [one.get("digest") for one in sources if isinstance(one, dict)] if isinstance(sources, list) else []
    return [one for one in named if isinstance(one, str)] or [training.digest]


def _reading(training: dict[str, Any], rendering: dict[str, Any]) -> Reading | None:
    """How a training read its rows, and which of them; None if its record doesn't say."""
    try:
        # Whatever else is recorded, this must be readable.
        record = TrainingRecord.model_validate({name: training[name] for name in READ if name in training})
        columns = record.columns or rendering.get("columns")
        columns = None if columns is None else canonical_columns(columns)
    except (ValueError, TypeError, AttributeError):
        return None
    if record.hold_out is None:
        return Reading(columns)
    return None if record.training_digest is None else Reading(columns, record.hold_out, record.training_digest)


def _note(found: TrainedOn, said: str) -> None:
    if said not in found.unknown:
        found.unknown.append(said)
