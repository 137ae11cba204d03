"""The second step of a publication: the row of a version and everything that belongs to it, in the caller's
transaction.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from registry.access.audit.service import record
from registry.artifacts.manifests import Recorded, record_manifest
from registry.artifacts.models import ManifestAccess
from registry.artifacts.uploads import finish_upload
from registry.catalog.models import (
    LIVE_ROWS,
    Adapter,
    Origin,
    Version,
    VersionDataset,
    VersionParent,
    VersionTag,
    VersionTarget,
)
from registry.catalog.publishing.claiming import keep_claims
from registry.catalog.publishing.new_version import Ancestry, NewVersion
from registry.catalog.versions.finding import exact_ref
from registry.catalog.versions.kinds import is_merged_only
from registry.catalog.versions.lifecycle import VersionState
from registry.catalog.versions.numbering import Counters, give_number, lock_counters, require_kind
from registry.catalog.versions.origins import add_origin, is_recorded, size_of
from registry.catalog.versions.present import Surroundings, parents_of, present, refresh_document
from registry.db.statements import append, connection_of, insert_if_new, put
from registry.db.types import utc_now
from registry.errors import RegistryError, Verification
from registry.principal import SYSTEM
from registry.signatures.service import record_signature
from registry.usage.charging import charge, record_bytes
from sdk.schemas.catalog import Published, VersionView

_LIVE_ROW = select(Version.pk).where(
    Version.adapter_pk == bindparam("adapter"), Version.digest == bindparam("digest"), LIVE_ROWS
)


def record_pending(session: Session, new: NewVersion, ancestry: Ancestry) -> None:
    """Write a row without a number, unless these bytes have a live one. Raises Conflict as `give_number` does."""
    counters = _counters(session, new)
    require_kind(session, counters, new.publication.adapter, new.publication.manifest.kind)
    if _find(session, new, counters) is None:
        version = _unwritten(new, counters, ancestry)
        _describe(session, version, new, VersionState.PENDING)
        put(session, version)


def record_ready(
    session: Session, new: NewVersion, ancestry: Ancestry, warnings: list[str], *, scored: bool
) -> Published:
    """Make verified bytes, which are `scored` already or not, a version with a number, or find the one that has them.
    Raises Verification.

    The commit raises QuotaExceeded if the namespace has no room for it.
    """
    recorded = _record_files(session, new)
    version, counters = _row(session, new, ancestry)
    if version.state == VersionState.QUARANTINED:
        raise Verification(
            f"these bytes are in quarantine ({version.refusal}); an admin can make them a version with: "
            f"adapterctl release {exact_ref(version)}"
        )
    if version.state != VersionState.PENDING:
        # What is only claimed, signed or not, is no second record of it, unless it was the first one.
        is_first = new.unclaimed is None or is_recorded(session, _origin(version, new))
        own = new if is_first or new.unclaimed is None else new.unclaimed
        add_origin(session, version, _origin(version, own))
        _add_datasets(session, version, own)
        claims = keep_claims(session, version, new, namespace=new.namespace, existing=True)
        return Published(version=present(session, version, new.who), existing=True, claims=claims)
    _charge(session, new, recorded)
    _describe(session, version, new, VersionState.READY, manifest_digest=recorded.digest, warnings=warnings)
    manifest = new.publication.manifest
    give_number(session, version, counters, new.publication.adapter, manifest.size_bytes, scored=scored)
    origin = _add_parts(session, version, new, ancestry)
    job = None if new.job is None else new.job.id
    about = {"digest": recorded.digest, "base": ancestry.base.brief.fingerprint, "job": job}
    if new.claims is not None:
        about["claimed by"] = new.claims.file.registry
    record(session, new.who, "version.publish", new.namespace, _ref(version, new), after=about)
    claims = keep_claims(session, version, new, namespace=new.namespace)
    view = _write_document(session, version, new, ancestry, origin)
    return Published(version=view, existing=False, claims=claims)


def record_quarantined(session: Session, new: NewVersion, ancestry: Ancestry, error: Verification) -> Verification:
    """Keep what was refused so that only its digest finds it; return the error that says so.

    It counts like any version: the commit raises QuotaExceeded if there is no room for it.
    """
    recorded = _record_files(session, new)
    version, _ = _row(session, new, ancestry)
    if version.state != VersionState.PENDING:
        # The same bytes have a row that is beyond this: it has been ready, or is in quarantine already.
        return error
    _charge(session, new, recorded)
    _describe(session, version, new, VersionState.QUARANTINED, manifest_digest=recorded.digest, refusal=error.message)
    version.moved_at = utc_now()
    put(session, version)
    origin = _add_parts(session, version, new, ancestry)
    keep_claims(session, version, new, namespace=new.namespace)
    ref = _ref(version, new)
    record(session, new.who, "version.quarantine", new.namespace, ref, after={"refusal": error.message})
    _write_document(session, version, new, ancestry, origin)
    return Verification(
        f"{error.message}. It is kept in quarantine; an admin can make it a version with: adapterctl release {ref}",
        param=error.param,
    )


def record_failed(session: Session, new: NewVersion, error: RegistryError) -> None:
    """Move a pending row to failed; a row that another publisher made ready in the meantime is left alone."""
    version = _find(session, new, _counters(session, new))
    if version is not None and version.state == VersionState.PENDING:
        version.state, version.refusal = VersionState.FAILED, error.message


# The row.


def _counters(session: Session, new: NewVersion) -> Counters:
    """The adapter's counters, created if it is new; nobody else can change anything about it until the transaction
    ends.
    """
    name = new.publication.adapter
    while (found := lock_counters(session, name)) is None:
        insert_if_new(session, Adapter, name=name, namespace=new.namespace, created_by=new.who.name, last_number=0)
    return found


def _find(session: Session, new: NewVersion, counters: Counters) -> Version | None:
    """The one live row of these bytes in their adapter."""
    values = {"adapter": counters.adapter_pk, "digest": new.digest}
    pk = connection_of(session).execute(_LIVE_ROW, values).scalar()
    return None if pk is None else session.get_one(Version, pk, populate_existing=True)


def _row(session: Session, new: NewVersion, ancestry: Ancestry) -> tuple[Version, Counters]:
    """The one live row of these bytes, or a pending one that is still to be written; and their adapter, locked."""
    counters = _counters(session, new)
    return _find(session, new, counters) or _unwritten(new, counters, ancestry), counters


def _unwritten(new: NewVersion, counters: Counters, ancestry: Ancestry) -> Version:
    base = ancestry.base.brief
    keys = {
        "adapter_pk": counters.adapter_pk,
        "digest": new.digest,
        "base_pk": ancestry.base.pk,
        "base_id": base.id,
        "base_revision": base.revision,
        "base_weights_digest": base.weights_digest,
        "base_architecture": base.architecture,
    }
    return Version(state=VersionState.PENDING, created_at=utc_now(), **keys)


#: What of a version's own row may be long.
_MEASURED = ("warnings", "lora", "quantization", "tags", "description", "unknown")


def _describe(
    session: Session,
    version: Version,
    new: NewVersion,
    state: VersionState,
    *,
    manifest_digest: str | None = None,
    warnings: list[str] | None = None,
    refusal: str | None = None,
) -> None:
    """Take a pending row to its state, and write its record, which is counted in the namespace.

    Everything is written again: the row may be from another push, which died or is slower.
    """
    publication = new.publication
    recipe = publication.quantization
    columns = {
        "state": state,
        "created_by": new.who.name,
        "manifest_digest": manifest_digest,
        "warnings": warnings,
        "refusal": refusal,
        "kind": publication.manifest.kind,
        "lora": publication.lora.model_dump(),
        "rank": publication.lora.rank,
        "method": publication.method or ("unknown" if recipe is None else "qlora"),
        "quantization": None if recipe is None else recipe.model_dump(),
        "tags": publication.tags,
        "description": publication.description,
        "unknown": publication.unknown,
    }
    for name, value in columns.items():
        setattr(version, name, value)
    size_bytes = record_bytes(publication.manifest.canonical(), *(columns[name] for name in _MEASURED))
    if state != VersionState.PENDING:
        size_bytes += size_of(_making(new))
    charge(session, new.namespace, records=size_bytes - (version.record_bytes or 0))
    version.record_bytes = size_bytes


def _ref(version: Version, new: NewVersion) -> str:
    return exact_ref(version, new.publication.adapter)


# What belongs to it.


def _record_files(session: Session, new: NewVersion) -> Recorded:
    """Record the manifest, and its signature if it has one."""
    publication = new.publication
    recorded = record_manifest(session, publication.manifest, namespace=new.namespace)
    if publication.signature is not None:
        record_signature(session, recorded.digest, publication.signature, new.who, namespaces=[new.namespace])
    finish_upload(session, publication.upload)
    return recorded


def _charge(session: Session, new: NewVersion, recorded: Recorded) -> None:
    """Count a version in its namespace, and stop counting the same model if it was merged there before."""
    size_bytes = new.publication.manifest.size_bytes
    charge(session, new.namespace, versions=size_bytes)
    if new.publication.manifest.kind == "merged" and not recorded.opened:
        of = (ManifestAccess.manifest_digest == recorded.digest, ManifestAccess.namespace == new.namespace)
        if session.scalar(select(ManifestAccess.namespace).where(*of, is_merged_only())) is not None:
            charge(session, new.namespace, merged=-size_bytes)


def _add_parts(session: Session, version: Version, new: NewVersion, ancestry: Ancestry) -> dict[str, Any]:
    """Record what lineage and search use to find a new version; return its origin."""
    pk = version.pk
    for edge in ancestry.parents:
        # A parent that is named twice in the same relation is one edge.
        insert_if_new(session, VersionParent, version_pk=pk, **edge._asdict())
    tags = [{"version_pk": pk, "key": key, "value": value} for key, value in new.publication.tags.items()]
    append(session, VersionTag, *tags)
    modules = sorted({module[:200] for module in new.publication.lora.target_modules})
    append(session, VersionTarget, *[{"version_pk": pk, "module": module} for module in modules])
    origin = _origin(version, new)
    append(session, Origin, origin)
    _add_datasets(session, version, new)
    return origin


def _add_datasets(session: Session, version: Version, new: NewVersion) -> None:
    """Record each of several datasets; a single one is in the origin."""
    dataset = new.publication.dataset
    for source in (None if dataset is None else dataset.sources) or ():
        insert_if_new(session, VersionDataset, version_pk=version.pk, digest=source.digest, weight=source.weight)


def _write_document(
    session: Session, version: Version, new: NewVersion, ancestry: Ancestry, origin: dict[str, Any]
) -> VersionView:
    """Record what `resolve` answers for a new version, and return it as the caller may see it.

    Nobody could name it or write to it before, so the only thing to be read is what its parents are called now.
    """
    parents = parents_of(session, [version.pk], SYSTEM).get(version.pk, []) if ancestry.parents else []
    newborn = Surroundings(
        adapter=new.publication.adapter,
        base=ancestry.base.brief,
        origin=Origin(**origin),
        aliases=[],
        notes=[],
        parents=parents,
        files=new.publication.manifest.files,
    )
    return refresh_document(session, version, new.who, known=newborn)


def _origin(version: Version, new: NewVersion) -> dict[str, Any]:
    return {"version_pk": version.pk, **_making(new)}


def _making(new: NewVersion) -> dict[str, Any]:
    """The columns of an origin, except for the version's key."""
    publication, job = new.publication, new.job
    return {
        "job": None if job is None else job.id,
        "attempt": None if job is None else job.attempt,
        "dataset_digest": None if publication.dataset is None else publication.dataset.digest,
        "dataset": None if publication.dataset is None else publication.dataset.model_dump(),
        "training": publication.training,
        "metrics": publication.metrics,
        "libraries": publication.libraries,
        "reported": new.reported,
        "created_by": new.who.name,
    }
