"""From a version's row to what travels, and the stored text of that."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.artifacts.manifests import read_manifests
from registry.auth.principal import SYSTEM, Principal
from registry.catalog.bases.finding import base_of
from registry.catalog.models import Alias, Origin, Version, VersionDocument, VersionNote, VersionParent
from registry.catalog.resolve import exact_ref, space_of
from registry.db import append, upsert
from sdk.schemas.catalog import BaseBrief, JobRef, NoteView, Parent, VersionView
from sdk.schemas.manifest import ManifestFile
from sdk.schemas.training import DatasetUse, LoraConfig, QuantizationRecipe


class Surroundings(NamedTuple):
    """What is said of a version beside its own row."""

    adapter: str
    base: BaseBrief
    origin: Origin | None
    aliases: list[str]
    notes: list[NoteView]
    parents: list[Parent]
    files: list[ManifestFile]


def view_versions(session: Session, versions: Sequence[Version], who: Principal) -> list[VersionView]:
    """Return versions as they travel, with what belongs to each read in five queries, not five a version.

    Parents in namespaces that the caller may not read are left out.
    """
    pks = [version.pk for version in versions]
    origins: dict[int, Origin] = {}
    for origin in session.scalars(select(Origin).where(Origin.version_pk.in_(pks)).order_by(Origin.pk.desc())):
        origins[origin.version_pk] = origin
    aliases: dict[int, list[str]] = {}
    for alias in session.scalars(select(Alias).where(Alias.version_pk.in_(pks)).order_by(Alias.name)):
        aliases.setdefault(alias.version_pk, []).append(alias.name)
    notes: dict[int, list[NoteView]] = {}
    for note in session.scalars(select(VersionNote).where(VersionNote.version_pk.in_(pks)).order_by(VersionNote.pk)):
        notes.setdefault(note.version_pk, []).append(
            NoteView(text=note.text, written_by=note.written_by, written_at=note.written_at)
        )
    parents = parents_of(session, pks, who)
    manifests = read_manifests(session, {version.digest for version in versions})
    return [
        _view(
            version,
            Surroundings(
                adapter=version.adapter.name,
                base=base_of(version),
                origin=origins.get(version.pk),
                aliases=aliases.get(version.pk, []),
                notes=notes.get(version.pk, []),
                parents=parents.get(version.pk, []),
                files=manifests[version.digest].files,
            ),
        )
        for version in versions
    ]


def parents_of(session: Session, pks: Collection[int], who: Principal) -> dict[int, list[Parent]]:
    """What versions were made from, by their keys, as far as the caller may read it."""
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


def _view(version: Version, around: Surroundings) -> VersionView:
    made, recipe = around.origin, version.quantization
    return VersionView(
        ref=exact_ref(version, around.adapter),
        adapter=around.adapter,
        number=version.number,
        digest=version.digest,
        state=version.state,
        kind=version.kind,
        aliases=around.aliases,
        tags=version.tags,
        description=version.description,
        notes=around.notes,
        created_by=version.created_by,
        created_at=version.created_at,
        base=around.base,
        lora=LoraConfig.model_validate(version.lora),
        method=version.method,
        quantization=None if recipe is None else QuantizationRecipe.model_validate(recipe),
        dataset=None if made is None or made.dataset is None else DatasetUse.model_validate(made.dataset),
        training=None if made is None else made.training,
        metrics={} if made is None else made.metrics,
        parents=around.parents,
        job=None if made is None or made.job is None else JobRef(id=made.job, attempt=made.attempt or 0),
        libraries={} if made is None else made.libraries,
        reported=None if made is None else made.reported,
        unknown=version.unknown,
        warnings=version.warnings or [],
        refusal=version.refusal,
        files=around.files,
    )


def view_version(session: Session, version: Version, who: Principal) -> VersionView:
    """Return one version as it travels."""
    return view_versions(session, [version], who)[0]


def refresh_document(
    session: Session, version: Version, who: Principal = SYSTEM, *, known: Surroundings | None = None
) -> VersionView:
    """Write down what `resolve` answers for a version, and return it as the caller may see it.

    Called in every transaction that changes anything of it. All is `known` of a new one, of which nothing is written yet.
    """
    if known is None:
        session.flush()
    view = view_version(session, version, SYSTEM) if known is None else _view(version, known)
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
