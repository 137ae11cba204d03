"""Bases: registering them, showing them, and what admins may correct.

A namespace says what it calls a base and where it is. What can be derived from the bytes is never taken from anybody's
word; if a base's bytes are not here, the rest is a claim of its namespace until a worker has hashed it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Unpack

from sqlalchemy import delete, exists, select, update
from sqlalchemy.orm import Session

from registry.access.audit.service import record
from registry.artifacts.manifests import blobs_of, record_manifest
from registry.artifacts.models import ManifestAccess, ManifestRow
from registry.artifacts.service import Artifacts
from registry.artifacts.uploads import finish_upload
from registry.catalog.bases.deriving import Derived, check_proof, derive
from registry.catalog.bases.finding import find_administered, find_derived, find_visible, present
from registry.catalog.bases.names import ANYBODYS, Whose, is_digits, meaning_of
from registry.catalog.models import BaseModelRow, NamedBase
from registry.db.database import Database
from registry.db.paging import Paged, Paging, page_of
from registry.db.statements import insert_if_new
from registry.db.types import utc_now
from registry.errors import Conflict, Forbidden, Invalid
from registry.principal import EVERYWHERE, LOCAL, Principal
from registry.usage.charging import charge, record_bytes
from sdk.schemas.catalog import BaseFix, BaseRegistration, BaseSelector, BaseView
from sdk.schemas.manifest import Manifest

#: How a namespace knows about a base, from the least to the most certain.
_CERTAINTY = ("claimed", "hashed", "derived")
#: When a base got its id, if nobody entitled to name it has given it one.
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)

#: Called in the transaction in which a namespace removes a base: gives up what other rooms keep for it there.
OnBaseRemoved = Callable[[Session, NamedBase], None]


class Bases:
    """The service over the tables of bases."""

    def __init__(self, db: Database, artifacts: Artifacts, *, on_removed: OnBaseRemoved) -> None:
        self._db = db
        self._artifacts = artifacts
        self._on_removed = on_removed

    def register(self, *, base: BaseRegistration, who: Principal) -> BaseView:
        """Record a base for a namespace; repeating a fingerprint there means the same base, which may gain its files.

        Raises Verification if its files are not of its fingerprint, or their bytes say something else; Conflict for
        other files or weights than the namespace has; NotFound, Forbidden, QuotaExceeded for files without room.
        """
        namespace = _home(base, who)
        if is_digits(base.id):
            raise Invalid(f"{base.id[:80]!a} would be read as a fingerprint; give the base another --id", param="id")
        derived = self._derive(base, namespace, who)
        if base.manifest is not None:
            config = base.config if derived is None else derived.config
            identity = check_proof(base.manifest, config, base.fingerprint)
            # Anything else that was said about these no longer matters.
            base = base.model_copy(update={"config": config, **identity._asdict()})
        with self._db.write() as session:
            facts = _facts_row(session, base, derived, who)
            row, moved = _named_row(session, base, facts, namespace, who)
            if derived is None:
                # A namespace's workers and admins vouch for hashes; its writers only make claims.
                _take_claims(session, row, base, "hashed" if who.may("work", namespace) else "claimed")
            elif base.manifest is not None:
                _take_files(session, row, base, derived, who)
            return present(row, replaces=moved)

    def _derive(self, base: BaseRegistration, namespace: str, who: Principal) -> Derived | None:
        """Verify the files that were sent, and read what they say; None if none were sent. Raises Forbidden."""
        if base.upload is None:
            return None
        # A worker says what it has hashed; what is kept for others to load must come from somebody who may write.
        if namespace == EVERYWHERE:
            _require_publisher(who)
        else:
            who.require("write", namespace)
        if base.manifest is None or base.manifest.kind != "base":
            raise Invalid("a base whose files were sent needs their manifest, of the kind 'base'", param="manifest")
        self._artifacts.verify(upload=base.upload, blobs=blobs_of(base.manifest), who=who)
        return self._derived_before(base.manifest) or derive(self._artifacts, base.manifest)

    def _derived_before(self, manifest: Manifest) -> Derived | None:
        """What exactly these files said when they first came, however often they are sent again."""
        with self._db.read() as session:
            row = find_derived(session, manifest.base_fingerprint, manifest.digest)
            return None if row is None else Derived(row.config, row.base.tensors, manifest.size_bytes)

    def list(self, *, who: Principal, **page: Unpack[Paging]) -> Paged[BaseView]:
        """The bases of the namespaces that the caller may read, and those published for all, newest first."""

        query = select(NamedBase).where(who.within(NamedBase.namespace))
        with self._db.read() as session:
            return page_of(session, query, NamedBase.pk, views=lambda rows: list(map(present, rows)), **page)

    def get(self, name: str, *, who: Principal, namespace: str | None = None, whose: Whose = ANYBODYS) -> BaseView:
        """Return a base by id, or by at least 12 digits of its fingerprint. Raises NotFound, Invalid for a name that means
        several.
        """
        with self._db.read() as session:
            row = find_visible(session, name, who, namespace=namespace, whose=whose, whole=True)
            return present(row, whole=True)

    def remove(self, *, name: BaseSelector, who: Principal) -> None:
        """Remove a base from a namespace: its versions stay, and no new ones can be made over it there.

        The next collection removes its files, if no other namespace has them, and the rows of its scores. Raises
        NotFound, Forbidden.
        """
        with self._db.write() as session:
            row = find_administered(session, name, who)
            if row.manifest_digest is not None:
                _close_files(session, row)
            record(session, who, "base.remove", row.namespace, row.base.fingerprint, before=_said(row))
            self._on_removed(session, row)
            charge(session, row.namespace, records=-row.record_bytes)
            session.delete(row)
            _forget_if_given_up(session, row.base_pk)

    def fix(self, *, fix: BaseFix, who: Principal) -> BaseView:
        """Correct what a namespace says about a base, its id or where it is; or forget its files, so that others can be
        sent.

        Raises NotFound, Forbidden, Invalid.
        """
        with self._db.write() as session:
            row = find_administered(session, fix, who)
            before = _said(row)
            moved = None
            if fix.id is not None:
                if is_digits(fix.id):
                    raise Invalid(f"{fix.id[:80]!a} would be read as a fingerprint; choose another id", param="id")
                moved = _holder(session, row.namespace, fix.id, but=row.base_pk)
                row.id, row.named_at = fix.id, utc_now()
            if fix.location is not None:
                # "" removes it.
                row.location = fix.location or None
            if fix.forget_files and row.manifest_digest is not None:
                _close_files(session, row)
                row.manifest_digest = None
            row.edition += 1
            record(session, who, "base.fix", row.namespace, row.base.fingerprint, before=before, after=_said(row))
            return present(row, replaces=moved)


def _home(base: BaseRegistration, who: Principal) -> str:
    """The namespace that a base is registered for. Raises NotFound, Forbidden.

    If none is given: for all, if the caller is an admin of all, or else the one of names without a namespace, or the
    first in which they may. Without tokens there is one user, whose bases can be used in each of their namespaces.
    """
    if who == LOCAL:
        return EVERYWHERE
    if base.namespace is None:
        return EVERYWHERE if _names(who, EVERYWHERE) else who.home("send")
    if base.namespace == EVERYWHERE:
        # Workers of all namespaces may say what they have hashed of a published base.
        if not who.may("work", EVERYWHERE):
            _require_publisher(who)
    else:
        who.require("send", base.namespace, param="namespace")
    return base.namespace


def _names(who: Principal, namespace: str) -> bool:
    """Whether the caller decides what a base is called in a namespace; for all namespaces, only their admins do."""
    return who.may("admin" if namespace == EVERYWHERE else "write", namespace)


def _require_publisher(who: Principal) -> None:
    """Raise Forbidden unless the caller may publish a base for all namespaces."""
    if not _names(who, EVERYWHERE):
        raise Forbidden(
            "only an admin of all namespaces can publish a base for all; register it for one namespace with: --namespace NAMESPACE",
            param="namespace",
        )


def _facts_row(session: Session, base: BaseRegistration, derived: Derived | None, who: Principal) -> BaseModelRow:
    """The one row of a fingerprint; what was derived from the bytes just now is written there, once."""
    insert_if_new(
        session,
        BaseModelRow,
        id=base.id,
        revision=base.revision,
        fingerprint=base.fingerprint,
        weights_digest=base.weights_digest,
        architecture=base.architecture,
        config={},
        tensors={},
        size_bytes=0,
        created_by=who.name,
    )
    query = select(BaseModelRow).where(BaseModelRow.fingerprint == base.fingerprint).with_for_update()
    row = session.scalars(query).one()
    if derived is not None and row.derived_at is None:
        row.weights_digest, row.architecture = base.weights_digest, base.architecture
        row.config, row.tensors, row.size_bytes = derived.config, derived.tensors, derived.size_bytes
        row.derived_at = utc_now()
        session.flush()
    return row


def _forget_if_given_up(session: Session, base_pk: int) -> None:
    """If every namespace has given a base up, keep nothing of it that takes room: what was derived is derived again from
    files that are sent again.
    """
    session.flush()
    nobodys = ~exists().where(NamedBase.base_pk == base_pk)
    of = update(BaseModelRow).where(BaseModelRow.pk == base_pk, nobodys).execution_options(synchronize_session=False)
    session.execute(of.values(manifest_digest=None, config={}, tensors={}, size_bytes=0, derived_at=None))


def _named_row(
    session: Session, base: BaseRegistration, facts: BaseModelRow, namespace: str, who: Principal
) -> tuple[NamedBase, str | None]:
    """What a namespace says about a fingerprint, created if it is new; and the fingerprint that had its id until now.

    Raises Conflict if the namespace has other weights under the fingerprint.
    """
    there = select(NamedBase.pk).where(NamedBase.namespace == namespace, NamedBase.base_pk == facts.pk)
    if namespace == EVERYWHERE and session.scalars(there).first() is None:
        # A worker of all namespaces may say what it has hashed, but publishes nothing.
        _require_publisher(who)
    moved = _holder(session, namespace, base.id, but=facts.pk)
    if moved is not None and not _names(who, namespace):
        # If a worker has found a base under an id that means another one, the other one keeps the id.
        moved, named_at = None, _NEVER
    else:
        named_at = utc_now()
    new = insert_if_new(
        session,
        NamedBase,
        namespace=namespace,
        base_pk=facts.pk,
        id=base.id,
        revision=base.revision,
        location=base.location,
        weights_digest=base.weights_digest,
        architecture=base.architecture,
        config={},
        tensors={},
        size_bytes=0,
        facts="claimed",
        created_by=who.name,
        named_at=named_at,
    )
    query = select(NamedBase).where(NamedBase.namespace == namespace, NamedBase.base_pk == facts.pk)
    row = session.scalars(query.with_for_update(of=NamedBase)).one()
    if row.weights_digest != base.weights_digest:
        raise Conflict(
            f"base {row.id} is registered with other weights under this fingerprint; an admin can remove it with: "
            f"adapterctl base rm {base.fingerprint[:12]}",
            param="weights_digest",
        )
    if new:
        after = _said(row) if moved is None else {**_said(row), "replaces": moved}
        record(session, who, "base.register", namespace, base.fingerprint, after=after)
        return row, moved
    if not _names(who, namespace):
        return row, None
    before = _said(row)
    # Another base has been given the id since: saying the id again means this one.
    moved = moved if base.id == row.id else None
    if moved is not None:
        row.named_at = utc_now()
    if base.location is not None:
        row.location = base.location
    after = _said(row) if moved is None else {**_said(row), "replaces": moved}
    if after != before:
        row.edition += 1
        record(session, who, "base.move", namespace, base.fingerprint, before=before, after=after)
    return row, moved


def _holder(session: Session, namespace: str, base_id: str, *, but: int) -> str | None:
    """The fingerprint that an id means in a namespace now, if that is another base."""
    row = meaning_of(session, base_id, NamedBase.namespace == namespace)
    return None if row is None or row.base_pk == but else row.base.fingerprint


def _take_claims(session: Session, row: NamedBase, base: BaseRegistration, certainty: str) -> None:
    """Keep what somebody says about a base, unless what is known is at least as certain."""
    known = bool(row.edition or row.config or row.tensors)
    if known and _CERTAINTY.index(certainty) <= _CERTAINTY.index(row.facts):
        return
    # Also if another namespace has sent the bytes, which this one isn't told.
    row.config, row.tensors, row.size_bytes, row.facts = base.config, base.tensors, base.size_bytes, certainty
    row.architecture = base.architecture
    row.edition += 1
    _count_records(session, row, record_bytes(base.config, base.tensors))


def _count_records(session: Session, row: NamedBase, size_bytes: int) -> None:
    """Count what a namespace says about a base, instead of what it said before."""
    charge(session, row.namespace, records=size_bytes - row.record_bytes)
    row.record_bytes = size_bytes


def _take_files(session: Session, row: NamedBase, base: BaseRegistration, derived: Derived, who: Principal) -> None:
    """Give a namespace a base's files, which were verified. Raises Conflict if it has others."""
    assert base.manifest is not None
    digest = base.manifest.digest
    finish_upload(session, base.upload)
    if row.manifest_digest not in (None, digest):
        raise Conflict(
            f"base {row.id} already has other files; an admin can let them be sent again with: "
            f"adapterctl base fix {base.fingerprint[:12]} --forget-files",
            param="manifest",
        )
    before = _said(row)
    record_manifest(session, base.manifest, namespace=row.namespace)
    if row.manifest_digest is None:
        charge(session, row.namespace, bases=base.manifest.size_bytes)
    row.manifest_digest, row.facts = digest, "derived"
    row.config, row.tensors, row.size_bytes = base.config, {}, base.manifest.size_bytes
    row.architecture = base.architecture
    row.edition += 1
    # Each namespace that has the files counts what was derived from them.
    _count_records(session, row, record_bytes(base.config, derived.tensors, base.manifest.canonical()))
    if before != (after := _said(row)):
        record(session, who, "base.move", row.namespace, base.fingerprint, before=before, after=after)


def _close_files(session: Session, row: NamedBase) -> None:
    """End the right of a namespace's readers to fetch a base's files, which no longer count in that namespace."""
    size = select(ManifestRow.size_bytes).where(ManifestRow.digest == row.manifest_digest)
    charge(session, row.namespace, bases=-(session.scalar(size) or 0))
    session.execute(
        delete(ManifestAccess).where(
            ManifestAccess.manifest_digest == row.manifest_digest, ManifestAccess.namespace == row.namespace
        )
    )


def _said(row: NamedBase) -> Mapping[str, Any]:
    return {"id": row.id, "location": row.location, "manifest": row.manifest_digest}
