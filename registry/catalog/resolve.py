"""From a ref to a version, and from a version to what travels."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.artifacts.service import read_manifest
from registry.catalog.lifecycle import VersionState
from registry.catalog.models import Adapter, Alias, Origin, Version, VersionParent
from registry.errors import Invalid, InvalidName, InvalidRef, NotFound
from sdk.schemas.catalog import BaseBrief, JobRef, Parent, VersionView
from sdk.schemas.refs import BadNameError, BadRefError, Ref, parse_name
from sdk.schemas.training import DatasetUse, LoraConfig, QuantizationRecipe


def parse_ref(text: str) -> Ref:
    """Parse a ref that came from outside. Raises InvalidName or InvalidRef."""
    try:
        return Ref.parse(text)
    except BadRefError as error:
        raise InvalidRef(str(error), param="ref") from None
    except BadNameError as error:
        raise InvalidName(str(error), param="ref") from None


def find_adapter(session: Session, name: str) -> Adapter:
    """Return the adapter `name`. Raises InvalidName or NotFound."""
    try:
        parse_name(name)
    except BadNameError as error:
        raise InvalidName(str(error), param="adapter") from None
    adapter = session.scalars(select(Adapter).where(Adapter.name == name)).first()
    if adapter is None:
        raise NotFound(f"there is no adapter {name!r}; see what there is with: adapterctl list", param="adapter")
    return adapter


def find_published(session: Session, name: str) -> Adapter:
    """Return the adapter `name` if it ever had a version: one that was only refused is not there for anybody."""
    adapter = find_adapter(session, name)
    if adapter.last_number == 0:
        raise NotFound(f"there is no adapter {name!r}; see what there is with: adapterctl list", param="adapter")
    return adapter


def find_version(session: Session, ref: Ref) -> Version:
    """Return the version that a ref names now. Raises NotFound, or Invalid for a digest that is not unique."""
    adapter = find_adapter(session, ref.adapter)
    query = select(Version).where(Version.adapter_pk == adapter.pk)
    if ref.selector == "latest":
        query = query.where(Version.state == VersionState.READY).order_by(Version.number.desc()).limit(1)
    elif ref.number is not None:
        query = query.where(
            Version.number == ref.number, Version.state.in_([VersionState.READY, VersionState.ARCHIVED])
        )
    elif ref.digest_prefix is not None:
        states = [VersionState.READY, VersionState.ARCHIVED, VersionState.QUARANTINED]
        query = query.where(Version.digest.startswith(ref.digest_prefix), Version.state.in_(states)).limit(2)
    else:
        # An alias whose version was deleted or quarantined names nothing until it is moved.
        query = query.join(Alias, Alias.version_pk == Version.pk).where(
            Alias.name == ref.alias,
            Alias.adapter_pk == adapter.pk,
            Version.state.in_([VersionState.READY, VersionState.ARCHIVED]),
        )
    found = session.scalars(query).all()
    if len(found) > 1:
        raise Invalid(f"{ref} fits more than one version; write more digits", param="ref")
    if not found:
        raise NotFound(f"there is no {ref}; see what there is with: adapterctl versions {ref.adapter}", param="ref")
    return found[0]


def exact_ref(version: Version) -> str:
    """The ref that will always mean this version."""
    selector = f"v{version.number}" if version.number is not None else f"sha256:{version.digest}"
    return f"{version.adapter.name}@{selector}"


def view_versions(session: Session, versions: Sequence[Version]) -> list[VersionView]:
    """Return versions as they travel, with what belongs to each read in three queries, not three a version."""
    pks = [version.pk for version in versions]
    origins: dict[int, Origin] = {}
    for origin in session.scalars(select(Origin).where(Origin.version_pk.in_(pks)).order_by(Origin.pk.desc())):
        origins[origin.version_pk] = origin
    aliases: dict[int, list[str]] = {}
    for alias in session.scalars(select(Alias).where(Alias.version_pk.in_(pks)).order_by(Alias.name)):
        aliases.setdefault(alias.version_pk, []).append(alias.name)
    parents: dict[int, list[Parent]] = {}
    edges = select(VersionParent, Version).join(Version, Version.pk == VersionParent.parent_pk)
    for edge, parent in session.execute(
        edges.where(VersionParent.version_pk.in_(pks)).order_by(VersionParent.parent_pk)
    ):
        parents.setdefault(edge.version_pk, []).append(
            Parent.model_validate({"ref": exact_ref(parent), "relation": edge.relation, "weight": edge.weight})
        )
    return [
        _view(session, version, origins.get(version.pk), aliases.get(version.pk, []), parents.get(version.pk, []))
        for version in versions
    ]


def view_version(session: Session, version: Version) -> VersionView:
    """Return one version as it travels."""
    return view_versions(session, [version])[0]


def _view(
    session: Session, version: Version, origin: Origin | None, aliases: list[str], parents: list[Parent]
) -> VersionView:
    base = version.base
    manifest = read_manifest(session, version.digest)
    return VersionView(
        ref=exact_ref(version),
        adapter=version.adapter.name,
        number=version.number,
        digest=version.digest,
        state=version.state,
        kind=version.kind,
        aliases=aliases,
        tags=version.tags,
        description=version.description,
        created_at=version.created_at,
        base=BaseBrief(
            id=base.id,
            revision=base.revision,
            fingerprint=base.fingerprint,
            weights_digest=base.weights_digest,
            architecture=base.architecture,
        ),
        lora=LoraConfig.model_validate(version.lora),
        quantization=None if version.quantization is None else QuantizationRecipe.model_validate(version.quantization),
        dataset=None if origin is None or origin.dataset is None else DatasetUse.model_validate(origin.dataset),
        training=None if origin is None else origin.training,
        metrics={} if origin is None else origin.metrics,
        parents=parents,
        job=None if origin is None or origin.job is None else JobRef(id=origin.job, attempt=origin.attempt or 0),
        libraries={} if origin is None else origin.libraries,
        files=manifest.files,
    )
