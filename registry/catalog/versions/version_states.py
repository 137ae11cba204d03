"""What happens to a version later: archive, restore, delete, release; and the notes that are added to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from registry.access.audit.service import record
from registry.artifacts.models import ManifestAccess, ManifestRow
from registry.artifacts.stored_blobs import hold_access
from registry.catalog.models import Adapter, Alias, Version, VersionNote, VersionTag
from registry.catalog.versions.claims import give_up_claims
from registry.catalog.versions.finding import exact_ref, find_version, parse_ref
from registry.catalog.versions.lifecycle import LIVE, VersionState, sources_of
from registry.catalog.versions.numbering import give_number, lock_counters, recount
from registry.catalog.versions.origins import shorten_origins
from registry.catalog.versions.present import present, refresh_document
from registry.db.database import Database
from registry.db.statements import upsert
from registry.db.types import utc_now
from registry.errors import Conflict, Invalid
from registry.principal import Principal
from registry.usage.charging import charge, record_bytes
from sdk.schemas.catalog import Annotation, VersionMove, VersionView

#: Called with a version in the transaction in which it is deleted, if its namespace has no other with the same files.
OnDeleted = Callable[[Session, Version], bool]

_MAX_TAGS = 64
#: Each is shown with the version.
_MAX_NOTES = 200
#: What each move is called in sentences and in the audit trail, and who may make it.
_VERBS = {
    VersionState.ARCHIVED: ("archive", "write"),
    VersionState.READY: ("restore", "write"),
    VersionState.DELETED: ("delete", "admin"),
}


class VersionStates:
    """The service that changes versions. Every change holds the lock of the adapter's row."""

    def __init__(self, db: Database, *, on_deleted: OnDeleted) -> None:
        """`on_deleted` gives up what other rooms keep for a deleted version, and says whether they need its files no more."""
        self._db = db
        self._on_deleted = on_deleted

    def move(self, move: VersionMove, target: VersionState, *, who: Principal) -> VersionView:
        """Hide a version from lists and `latest`, where its number and digest still find it; bring it back; or remove it for
        good: its number stays taken, and the next collection removes its files.

        Repeating it is fine. Raises NotFound, Forbidden, and Conflict that names the aliases of an aliased version.
        """
        verb, action = _VERBS[target]
        ref = parse_ref(move.ref)
        with self._db.write() as session:
            if target == VersionState.DELETED:
                hold_access(session, find_version(session, ref, who, action=action).digest)
            version = find_version(session, ref, who, action=action, lock=True)
            return move_version(session, version, target, verb, move.reason, who, on_deleted=self._on_deleted)

    def release(self, *, move: VersionMove, who: Principal) -> VersionView:
        """Release a quarantined version, with the next number.

        Raises NotFound, Forbidden, Conflict, also for a name whose versions are of another kind, and QuotaExceeded if
        it needs a name more than the quota allows.
        """
        with self._db.write() as session:
            version = find_version(session, parse_ref(move.ref), who, action="admin", lock=True)
            before = exact_ref(version)
            if not _leave(session, version, (VersionState.QUARANTINED,), VersionState.READY):
                raise Conflict(f"{before} is {version.state}, not quarantined; there is nothing to release")
            size = session.scalar(select(ManifestRow.size_bytes).where(ManifestRow.digest == version.digest)) or 0
            counters = lock_counters(session, version.adapter.name)
            assert counters is not None
            give_number(session, version, counters, version.adapter.name, size)
            view = refresh_document(session, version, who)
            _note(session, version, who, "version.release", {"ref": before}, {"reason": move.reason})
            return view

    def annotate(self, *, annotation: Annotation, who: Principal) -> VersionView:
        """Add a description, tags or a note to a version; the same note again adds none.

        Raises NotFound, Forbidden, Invalid for too many tags.
        """
        with self._db.write() as session:
            version = find_version(session, parse_ref(annotation.ref), who, action="write", lock=True)
            measured = _said_later(version)
            before: dict[str, Any] = {"description": version.description, "tags": dict(version.tags)}
            if annotation.description is not None:
                version.description = annotation.description
            tags = {key: value for key, value in version.tags.items() if key not in annotation.untag}
            tags |= annotation.tags
            if len(tags) > _MAX_TAGS:
                raise Invalid(f"a version has at most {_MAX_TAGS} tags; remove some with --untag", param="tags")
            if tags != version.tags:
                _retag(session, version, tags)
            noted = 0
            if annotation.note is not None and not _is_newest_note(session, version, annotation.note, who):
                _require_few_notes(session, version)
                noted = record_bytes(annotation.note)
                session.add(VersionNote(version_pk=version.pk, text=annotation.note, written_by=who.name))
            more_bytes = noted + _said_later(version) - measured
            version.record_bytes += more_bytes
            charge(session, version.adapter.namespace, records=more_bytes)
            after = {"description": version.description, "tags": tags, "note": annotation.note}
            _note(session, version, who, "version.annotate", before, after)
            return refresh_document(session, version, who)


def move_version(
    session: Session,
    version: Version,
    target: VersionState,
    verb: str,
    reason: str,
    who: Principal,
    *,
    on_deleted: OnDeleted,
) -> VersionView:
    """Move a version whose adapter the caller has locked, with everything that depends on it. Raises Conflict.

    For a deletion, the caller has called `hold_access` before it locked the adapter: otherwise a version of the
    same files that is published in another adapter at this moment, and relies on the access that they have, would lose it.
    """
    ref, before = exact_ref(version), version.state
    if before == target:
        return present(session, version, who)
    if target in (VersionState.ARCHIVED, VersionState.DELETED):
        _require_no_alias(session, version, verb)
    # A version can only leave quarantine by a release, which gives it a number.
    sources = [state for state in sources_of(target) if target != VersionState.READY or state == VersionState.ARCHIVED]
    if not _leave(session, version, sources, target):
        raise Conflict(f"{ref} is {before}, so it can't be {verb}d; see: adapterctl show {ref}")
    freed = 0
    if target == VersionState.DELETED:
        size = select(ManifestRow.size_bytes).where(ManifestRow.digest == version.digest)
        size_bytes = session.scalar(size) or 0
        charge(session, version.adapter.namespace, versions=-size_bytes)
        # In quarantine it did not count among its adapter's versions.
        freed = 0 if version.number is None else size_bytes
        shorten_origins(session, version)
        give_up_claims(session, version)
        namespace, digest = version.adapter.namespace, version.digest
        if not is_live_in(session, namespace, digest) and on_deleted(session, version):
            close_files(session, namespace, digest)
    adapter = session.get_one(Adapter, version.adapter_pk, populate_existing=True)
    recount(session, adapter, freed_bytes=freed)
    _note(session, version, who, f"version.{verb}", {"state": before}, {"state": str(target), "reason": reason})
    return refresh_document(session, version, who)


def _note(
    session: Session, version: Version, who: Principal, action: str, before: dict[str, Any], after: dict[str, Any]
) -> None:
    space, ref = version.adapter.namespace, exact_ref(version)
    record(session, who, action, space, ref, before=before, after=after)


def _leave(
    session: Session, version: Version, sources: tuple[VersionState, ...] | list[VersionState], target: VersionState
) -> bool:
    """Move a version by one conditional UPDATE; say whether this call did."""
    won = session.execute(
        update(Version)
        .where(Version.pk == version.pk, Version.state.in_(sources))
        .values(state=target, moved_at=utc_now())
        .returning(Version.pk)
    ).first()
    session.refresh(version)
    return won is not None


def _require_no_alias(session: Session, version: Version, verb: str) -> None:
    named = select(Alias.name).where(Alias.version_pk == version.pk).order_by(Alias.name)
    aliases = session.scalars(named).all()
    if aliases:
        names = ", ".join(aliases)
        adapter = version.adapter.name
        raise Conflict(
            f"{exact_ref(version)} is named by the alias{'es' if len(aliases) > 1 else ''} {names}; before you {verb} it, "
            f"run: adapterctl alias set {adapter} {aliases[0]} vN, or: adapterctl alias rm {adapter} {aliases[0]}",
            param="ref",
        )


def is_live_in(session: Session, namespace: str, digest: str) -> bool:
    """Whether a version of a namespace that was not deleted has these files."""
    versions = select(Version.pk).join(Adapter, Adapter.pk == Version.adapter_pk)
    of = (Adapter.namespace == namespace, Version.digest == digest, Version.state.in_(LIVE))
    return session.scalars(versions.where(*of).limit(1)).first() is not None


def close_files(session: Session, namespace: str, digest: str) -> None:
    """Take away the access of a namespace's readers to the files of a manifest."""
    of = (ManifestAccess.manifest_digest == digest, ManifestAccess.namespace == namespace)
    session.execute(delete(ManifestAccess).where(*of))


def _said_later(version: Version) -> int:
    """What may be changed of a version's row takes so many bytes of the database."""
    return record_bytes(version.tags, version.description)


def _require_few_notes(session: Session, version: Version) -> None:
    notes = select(VersionNote.pk).where(VersionNote.version_pk == version.pk).limit(_MAX_NOTES).subquery()
    if (session.scalar(select(func.count()).select_from(notes)) or 0) >= _MAX_NOTES:
        raise Invalid(
            f"{exact_ref(version)} has {_MAX_NOTES} notes, and can't have more; change its description instead: "
            f"adapterctl annotate {exact_ref(version)} --description TEXT",
            param="note",
        )


def _is_newest_note(session: Session, version: Version, text: str, who: Principal) -> bool:
    """Whether the caller has just said this: then the request was sent again."""
    newest = select(VersionNote).where(VersionNote.version_pk == version.pk).order_by(VersionNote.pk.desc()).limit(1)
    note = session.scalars(newest).first()
    return note is not None and (note.text, note.written_by) == (text, who.name)


def _retag(session: Session, version: Version, tags: dict[str, str]) -> None:
    version.tags = tags
    session.execute(delete(VersionTag).where(VersionTag.version_pk == version.pk))
    for key, value in tags.items():
        upsert(session, VersionTag, {"version_pk": version.pk, "key": key}, {"value": value})
