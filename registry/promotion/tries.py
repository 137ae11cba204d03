"""How many bytes of an adapter were tried on the rows of each dataset: whoever tries many versions finds one that passes.

What is tried is noted in the transaction in which scores, members of sweeps or versions are kept, under each adapter of
the namespace that has the bytes, and never removed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Literal, NamedTuple

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from registry.catalog.models import Adapter, Version
from registry.catalog.versions.finding import space_of
from registry.db.statements import insert_if_new
from registry.db.stored_json import table
from registry.db.types import utc_now
from registry.evaluations.last_scores import hold_scores
from registry.evaluations.models import Evaluation
from registry.evaluations.standing import of_version
from registry.principal import SYSTEM
from registry.promotion.generations import raise_generation
from registry.promotion.models import TriedRows
from registry.sweeps.members import keep_result
from registry.sweeps.models import Sweep
from registry.usage.charging import charge, record_bytes
from sdk.formats.refs import BadNameError, BadRefError, MemberRef, parse_ref_or_member
from sdk.schemas.catalog import Publication
from sdk.schemas.job_requests import SweepPlace
from sdk.schemas.sweeps import MemberResult
from sdk.schemas.version_records import TrainingRecord

_DIGEST = re.compile(r"[0-9a-f]{64}")
#: How rows met bytes: they scored them, or chose them among others.
How = Literal["scored", "chosen"]


class TriedDataset(NamedTuple):
    """A dataset on which bytes of an adapter were tried."""

    dataset: str
    #: Which of its columns were which keys of a row.
    columns: str | None
    #: How many different bytes.
    digests: int


class _Met(NamedTuple):
    """Rows that some bytes have met."""

    dataset: str
    columns: str | None
    how: How


def tried_of(session: Session, adapter: str) -> list[TriedDataset]:
    """Return on which datasets, in which readings, bytes of an adapter were tried, and how many on each, sorted."""
    of = (TriedRows.dataset_digest, TriedRows.columns)
    counted = select(*of, func.count()).where(TriedRows.adapter == adapter).group_by(*of)
    return sorted((TriedDataset(*row) for row in session.execute(counted)), key=_place)


def count_tries(session: Session, adapter: str, datasets: Collection[str]) -> int:
    """Return how many different bytes of an adapter were tried on the rows of any of these datasets."""
    counted = select(func.count(TriedRows.digest.distinct())).where(TriedRows.adapter == adapter)
    return session.scalar(counted.where(TriedRows.dataset_digest.in_(sorted(datasets)))) or 0


def chosen_by(session: Session, namespace: str, digests: Collection[str]) -> list[TriedDataset]:
    """Return the datasets, in all readings, by whose rows any of these bytes were chosen in a namespace, sorted."""
    of = (TriedRows.dataset_digest, TriedRows.columns)
    chosen = select(*of, func.count()).where(TriedRows.namespace == namespace, TriedRows.how == "chosen")
    chosen = chosen.where(TriedRows.digest.in_(sorted(digests))).group_by(*of)
    return sorted((TriedDataset(*row) for row in session.execute(chosen)), key=_place)


def _place(one: TriedDataset) -> tuple[str, str]:
    return one.dataset, one.columns or ""


def note_scores(session: Session, kept: Sequence[Evaluation]) -> None:
    """Note what a job has scored; decisions about its adapters are made anew.

    It locks no adapter, and raises the generations of these in the order of their names.
    """
    noted: dict[str, list[tuple[str, _Met]]] = {}
    for row in kept:
        if row.digest is None:
            continue
        met = _Met(row.dataset_digest, _columns(table(row.spec).get("columns")), "scored")
        for adapter in _adapters_with(session, row.digest, row.namespace) | _adapter_of_member(session, row.label):
            noted.setdefault(adapter, []).append((row.digest, met))
    for adapter, tries in sorted(noted.items()):
        raise_generation(session, adapter)
        for digest, met in tries:
            _note(session, adapter, digest, [met])


def note_checked(session: Session, digest: str, namespace: str) -> None:
    """Note that the registry has found out which rows of scores of some bytes were trained on: decisions are made anew."""
    for adapter in _adapters_with(session, digest, namespace):
        raise_generation(session, adapter)


def note_version(session: Session, publication: Publication) -> bool:
    """Note by which rows a version was chosen or measured in its training, and which have scored its bytes under another
    name; return whether any have.

    Call it before the adapter is locked, as moves of its aliases lock it.
    """
    digest, namespace = publication.manifest.digest, space_of(publication.adapter)
    hold_scores(session, [(namespace, digest)])
    scored = list(_scored_before(session, digest, namespace))
    met = [*_met_in_training(publication, of_sweep=False), *scored]
    if met:
        raise_generation(session, publication.adapter)
        _note(session, publication.adapter, digest, met)
    return bool(scored)


def keep_member(session: Session, place: SweepPlace, step: int, result: MemberResult, publication: Publication) -> None:
    """Keep what a member of a sweep has handed in, and note that the sweep's rows choose among its members.

    Raises what `keep_result` raises.
    """
    keep_result(session, place, step, result, publication)
    adapter = session.get_one(Sweep, place.sweep).adapter
    raise_generation(session, adapter)
    _note(session, adapter, publication.manifest.digest, _met_in_training(publication, of_sweep=True))


def looked_at(record: TrainingRecord, trained_on: Sequence[str], *, of_sweep: bool = False) -> list[tuple[str, How]]:
    """Return which datasets measured a training, and whether their rows chose what became of it.

    Rows that were held out of what it was `trained_on`, digests, are not a dataset of their own, so all of that counts.

    >>> looked_at(TrainingRecord(eval_data="e" * 64, keep="best"), ["t" * 64]) == [("e" * 64, "chosen")]
    True
    >>> looked_at(TrainingRecord(), ["t" * 64])
    []
    """
    chose = record.chooses or of_sweep or record.sweep is not None
    chose = chose or any(one is not None for one in (record.best_step, record.stopped_step, record.looks))
    how: How = "chosen" if chose else "scored"
    held_out = record.hold_out is not None or record.held_out_rows is not None
    found: dict[str, How] = {}
    if record.test_data is not None:
        found[record.test_data] = "scored"
    for dataset in [record.eval_data] if record.eval_data is not None else trained_on if held_out else []:
        found[dataset] = how
    return list(found.items())


def _met_in_training(publication: Publication, *, of_sweep: bool) -> list[_Met]:
    trained_on = [] if publication.dataset is None else publication.dataset.digests
    record = publication.record
    looked = looked_at(record, trained_on, of_sweep=of_sweep)
    # A pusher may have written anything there.
    return [_Met(dataset, record.columns, how) for dataset, how in looked if _DIGEST.fullmatch(dataset)]


def _scored_before(session: Session, digest: str, namespace: str) -> Iterable[_Met]:
    """The datasets on which these bytes have scores in their namespace."""
    counting = of_version(Evaluation, SYSTEM, digest=digest, namespace=namespace)
    one_of_each = select(func.min(Evaluation.id)).where(counting).group_by(Evaluation.dataset_digest)
    rows = select(Evaluation.dataset_digest, Evaluation.spec).where(Evaluation.id.in_(one_of_each))
    for row in session.execute(rows.order_by(Evaluation.dataset_digest)):
        yield _Met(row.dataset_digest, _columns(table(row.spec).get("columns")), "scored")


def _adapters_with(session: Session, digest: str, namespace: str) -> set[str]:
    """The names in a namespace that have, or had, a version with these bytes."""
    names = select(Adapter.name).join(Version, Version.adapter_pk == Adapter.pk)
    return set(session.scalars(names.where(Version.digest == digest, Adapter.namespace == namespace)))


def _adapter_of_member(session: Session, label: str) -> set[str]:
    """The adapter of the sweep of which a label names a member."""
    try:
        ref = parse_ref_or_member(label)
    except (BadNameError, BadRefError):
        return set()
    sweep = session.get(Sweep, ref.sweep) if isinstance(ref, MemberRef) else None
    return set() if sweep is None else {sweep.adapter}


def _note(session: Session, adapter: str, digest: str, met: Iterable[_Met]) -> None:
    """Note that bytes of an adapter have met rows; what chose them is not forgotten when it scores them."""
    namespace = space_of(adapter)
    for dataset, columns, how in met:
        key = {"adapter": adapter, "dataset_digest": dataset, "digest": digest}
        size_bytes = record_bytes(adapter, dataset, digest, columns)
        values = {"namespace": namespace, "columns": columns, "how": how, "at": utc_now(), "record_bytes": size_bytes}
        if insert_if_new(session, TriedRows, **key, **values):
            charge(session, namespace, records=size_bytes)
        elif how == "chosen":
            session.execute(update(TriedRows).filter_by(**key).values(how=how))


def _columns(stored: object) -> str | None:
    return stored if isinstance(stored, str) else None
