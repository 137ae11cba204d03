"""From a version's row to what is sent over the API, and the stored text of that."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.artifacts.manifests import read_manifests
from registry.catalog.bases.finding import base_of
from registry.catalog.models import Origin, Version, VersionDocument, VersionNote, VersionParent
from registry.catalog.versions.finding import aliases_of, exact_ref, space_of
from registry.catalog.versions.origins import first_origins
from registry.db.statements import append, upsert
from registry.db.stored_json import fields_of, salvage, table
from registry.errors import Unreadable
from registry.principal import SYSTEM, Principal
from sdk.schemas.catalog import BaseBrief, JobRef, NoteView, Parent, VersionView
from sdk.schemas.lora_config import LoraConfig, QuantizationRecipe
from sdk.schemas.manifest import ManifestFile
from sdk.schemas.training_report import DatasetUse

M = TypeVar("M", bound=BaseModel)

_log = logging.getLogger(__name__)


class Surroundings(NamedTuple):
    """What is shown of a version in addition to its own row."""

    adapter: str
    base: BaseBrief
    origin: Origin | None
    aliases: list[str]
    notes: list[NoteView]
    parents: list[Parent]
    #: None if this release can't read the manifest.
    files: list[ManifestFile] | None


def present_all(session: Session, versions: Sequence[Version], who: Principal) -> list[VersionView]:
    """Return versions as sent over the API; what belongs to them is read in five queries in all, not five per version.

    Parents in namespaces that the caller may not read are left out, and so are versions that this release can't read
    well enough to show them.
    """
    views = []
    for view in _present_each(session, versions, who):
        if isinstance(view, Unreadable):
            _log.warning("leaving a version out of a list: %s", view)
        else:
            views.append(view)
    return views


def _present_each(session: Session, versions: Sequence[Version], who: Principal) -> list[VersionView | Unreadable]:
    pks = [version.pk for version in versions]
    origins = {one.version_pk: one for one in session.scalars(select(Origin).where(Origin.pk.in_(first_origins(pks))))}
    aliases = aliases_of(session, pks)
    notes: dict[int, list[NoteView]] = {}
    for note in session.scalars(select(VersionNote).where(VersionNote.version_pk.in_(pks)).order_by(VersionNote.pk)):
        notes.setdefault(note.version_pk, []).append(
            NoteView(text=note.text, written_by=note.written_by, written_at=note.written_at)
        )
    parents = parents_of(session, pks, who)
    manifests = read_manifests(session, {version.digest for version in versions})
    return [
        _attempted(
            version,
            Surroundings(
                adapter=version.adapter.name,
                base=base_of(version),
                origin=origins.get(version.pk),
                aliases=aliases.get(version.pk, []),
                notes=notes.get(version.pk, []),
                parents=parents.get(version.pk, []),
                files=manifests[version.digest].files if version.digest in manifests else None,
            ),
        )
        for version in versions
    ]


def parents_of(session: Session, pks: Collection[int], who: Principal) -> dict[int, list[Parent]]:
    """What versions were made from, by their keys, if the caller may read it."""
    found: dict[int, list[Parent]] = {}
    edges = select(VersionParent, Version).join(Version, Version.pk == VersionParent.parent_pk)
    for edge, parent in session.execute(
        edges.where(VersionParent.version_pk.in_(pks)).order_by(VersionParent.parent_pk)
    ):
        if who.may("read", parent.adapter.namespace):
            found.setdefault(edge.version_pk, []).append(
                Parent.model_validate({"ref": exact_ref(parent), "relation": edge.relation, "weight": edge.weight})
            )
    return found


def _attempted(version: Version, around: Surroundings) -> VersionView | Unreadable:
    try:
        return _present(version, around)
    except Unreadable as error:
        return error


def _present(version: Version, around: Surroundings) -> VersionView:
    """Return a version as sent over the API; what can't be read of it is left out, and named among its warnings.

    Raises Unreadable if nothing is left that could be shown.
    """
    shown, left_out = around._asdict(), []
    made: Origin | None = shown.pop("origin")

    def of(name: str, kind: type[M], value: Any) -> M | None:
        if value is None:
            return None
        found, faults = salvage(kind, value)
        left_out.extend([name] if found is None else [f"{name}.{path}" for path in faults])
        return found

    lora = of("lora", LoraConfig, version.lora)
    recipe = of("quantization", QuantizationRecipe, version.quantization)
    dataset = None if made is None else of("dataset", DatasetUse, made.dataset)
    said = fields_of(
        VersionView,
        version,
        **shown,
        ref=exact_ref(version, around.adapter),
        tags=table(version.tags),
        lora=lora,
        quantization=recipe,
        dataset=dataset,
        training=None if made is None else made.training,
        metrics={} if made is None else table(made.metrics),
        job=None if made is None or made.job is None else JobRef(id=made.job, attempt=made.attempt or 0),
        libraries={} if made is None else table(made.libraries),
        reported=None if made is None else made.reported,
        warnings=version.warnings or [],
    )
    view, faults = salvage(VersionView, said)
    left_out += faults
    if view is None:
        raise Unreadable(
            f"{said['ref']} has a form that this release can't read ({', '.join(left_out)}); upgrade the registry"
        )
    if left_out:
        warning = f"this release of the registry can't read its {', '.join(left_out)}; upgrade the registry to see that"
        return view.model_copy(update={"warnings": [*view.warnings, warning]})
    return view


def present(session: Session, version: Version, who: Principal) -> VersionView:
    """Return one version as sent over the API. Raises Unreadable."""
    (view,) = _present_each(session, [version], who)
    if isinstance(view, Unreadable):
        raise view
    return view


def refresh_document(
    session: Session, version: Version, who: Principal = SYSTEM, *, known: Surroundings | None = None
) -> VersionView:
    """Record what `resolve` answers for a version, and return it as the caller may see it.

    Called in every transaction that changes anything about it. `known` is given for a new version, of which nothing is
    written yet.
    """
    if known is None:
        session.flush()
    view = present(session, version, SYSTEM) if known is None else _present(version, known)
    namespace = space_of(view.adapter)
    spaces = [space_of(parent.ref.partition("@")[0]) for parent in view.parents]
    foreign = any(space != namespace for space in spaces)
    key, written = {"version_pk": version.pk}, {"body": view.model_dump_json(), "foreign": foreign}
    if known is None:
        upsert(session, VersionDocument, key, written)
    else:
        append(session, VersionDocument, {**key, **written})
    seen = [parent for parent, space in zip(view.parents, spaces, strict=True) if who.may("read", space)]
    return view.model_copy(update={"parents": seen})
