"""Adapters and merged models: a name has versions of one kind, and operations on adapters refuse merged models."""

from __future__ import annotations

from sqlalchemy import ColumnElement, and_, exists, select
from sqlalchemy.orm import Session

from registry.artifacts.models import ManifestAccess, ManifestRow
from registry.catalog.models import Adapter, Version, VersionParent
from registry.catalog.versions.finding import exact_ref
from registry.catalog.versions.lifecycle import VersionState
from registry.errors import Conflict, Invalid

#: States in which a version belongs to somebody, and counts towards their quota.
KEPT = (VersionState.READY, VersionState.ARCHIVED, VersionState.QUARANTINED)

_CALLED = {"adapter": "adapter", "merged": "merged model"}
_KIND = select(Version.kind).join(Adapter).where(Version.number == Adapter.last_number)


def require_adapter(session: Session, version: Version, done: str, *, param: str = "ref") -> None:
    """Raise Invalid for a merged model, which can't be `done` (trained, merged …) as adapters can; its adapter is
    named.
    """
    if version.kind == "adapter":
        return
    parent = adapter_in(session, version)
    raise Invalid(
        f"{exact_ref(version)} is a merged model, not an adapter, so it can't be {done}"
        + ("" if parent is None else f"; name the adapter that was merged into it: {exact_ref(parent)}"),
        param=param,
    )


def adapter_in(session: Session, version: Version) -> Version | None:
    """Return the adapter that a merged model was made from."""
    of = select(Version).join(VersionParent, VersionParent.parent_pk == Version.pk)
    return session.scalars(of.where(VersionParent.version_pk == version.pk).limit(1)).first()


def require_name_of_kind(session: Session, name: str, kind: str, *, param: str = "adapter") -> None:
    """Raise Conflict if a name has, or had, versions of another kind: `latest` and aliases would change their
    meaning.
    """
    require_one_kind(name, session.scalar(_KIND.where(Adapter.name == name)), kind, param=param)


def require_one_kind(name: str, has: str | None, kind: str, *, param: str = "adapter") -> None:
    """Like `require_name_of_kind`, if the kind that a name `has` is known; None: it has none yet."""
    if has not in (None, kind):
        example = f", such as {name}-merged" if kind == "merged" else ""
        raise Conflict(
            f"the versions of {name} are {_CALLED.get(has, has)}s, so no {_CALLED.get(kind, kind)} becomes one of them; "
            f"choose another name{example}",
            param=param,
        )


def is_merged_only() -> ColumnElement[bool]:
    """The condition that a row of ManifestAccess is for a merged model that is not a version in its namespace."""
    registered = (
        exists()
        .where(
            Version.digest == ManifestAccess.manifest_digest,
            Version.state.in_(KEPT),
            Adapter.pk == Version.adapter_pk,
            Adapter.namespace == ManifestAccess.namespace,
        )
        .correlate(ManifestAccess)
    )
    merged = exists().where(ManifestRow.digest == ManifestAccess.manifest_digest, ManifestRow.kind == "merged")
    return and_(merged.correlate(ManifestAccess), ~registered)
