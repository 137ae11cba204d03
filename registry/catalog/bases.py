"""Bases: registering them and finding them by id or fingerprint."""

from __future__ import annotations

import re
from collections.abc import Sequence
from threading import Lock
from typing import NamedTuple

from sqlalchemy import bindparam, or_, select
from sqlalchemy.orm import Session, undefer

from registry.artifacts.manifests import blobs_of, read_manifest, record_manifest
from registry.artifacts.service import Artifacts
from registry.artifacts.uploads import finish_upload
from registry.audit.service import record
from registry.auth.principal import EVERYWHERE, Principal
from registry.catalog.models import BaseModelRow
from registry.db import Database, insert_if_new
from registry.errors import Conflict, Forbidden, Invalid, NotFound
from registry.paging import Paged, page_of
from sdk.schemas.catalog import BaseBrief, BaseRegistration, BaseView
from sdk.schemas.work import BaseSource

_FINGERPRINT, _SHORTENED = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{12,63}")
_WHOLE = (undefer(BaseModelRow.config), undefer(BaseModelRow.tensors))


class Bases:
    """The service over the table of bases."""

    def __init__(self, db: Database, artifacts: Artifacts) -> None:
        self._db = db
        self._artifacts = artifacts

    def register(self, *, base: BaseRegistration, who: Principal) -> BaseView:
        """Record a base; one with the same fingerprint is the same base, and may gain a location or its files.

        Raises Conflict for other weights under its fingerprint, Forbidden where another location is given by somebody
        who neither registered it nor is an admin.
        """
        if base.manifest is not None:
            if base.upload is None:
                raise Invalid("a base with a manifest needs the upload session of its files", param="upload")
            if base.manifest.base_fingerprint != base.fingerprint or base.manifest.kind != "base":
                raise Invalid("the manifest is not that of this base", param="manifest")
            self._artifacts.verify(upload=base.upload, blobs=blobs_of(base.manifest), who=who)
        with self._db.write() as session:
            new = insert_if_new(
                session,
                BaseModelRow,
                id=base.id,
                revision=base.revision,
                fingerprint=base.fingerprint,
                weights_digest=base.weights_digest,
                architecture=base.architecture,
                location=base.location,
                config=base.config,
                tensors=base.tensors,
                size_bytes=base.size_bytes,
                created_by=who.name,
            )
            row = session.scalars(select(BaseModelRow).where(BaseModelRow.fingerprint == base.fingerprint)).one()
            if row.weights_digest != base.weights_digest:
                raise Conflict(
                    f"base {row.id} is registered with other weights under this fingerprint", param="weights_digest"
                )
            before = {"location": row.location, "manifest": row.manifest_digest}
            if base.location is not None and base.location != row.location:
                _require_owner(row, who)
                row.location = base.location
            if base.manifest is not None:
                row.manifest_digest = record_manifest(session, base.manifest, namespace=EVERYWHERE)
                finish_upload(session, base.upload)
            after = {"location": row.location, "manifest": row.manifest_digest}
            if new:
                record(session, who, "base.register", EVERYWHERE, row.fingerprint, after={"id": row.id, **after})
            elif before != after:
                record(session, who, "base.move", EVERYWHERE, row.fingerprint, before=before, after=after)
            session.flush()
            return view_base(row)

    def list(self, *, cursor: str | None, limit: int) -> Paged[BaseView]:
        """All bases, the newest first."""

        def views(rows: Sequence[BaseModelRow]) -> list[BaseView]:
            return [view_base(row) for row in rows]

        with self._db.read() as session:
            return page_of(
                session,
                select(BaseModelRow),
                BaseModelRow.pk,
                cursor=cursor,
                limit=limit,
                views=views,
                newest_first=True,
            )

    def get(self, name: str) -> BaseView:
        """Return a base by id (the newest of that id) or fingerprint (whole, or 12 digits and more). Raises NotFound."""
        with self._db.read() as session:
            row = find_base(session, name, whole=True)
            return view_base(row, whole=True)


#: A whole fingerprint is one base, whatever another's id may say.
_OF_FINGERPRINT = select(BaseModelRow).where(BaseModelRow.fingerprint == bindparam("fingerprint"))
_BY_FINGERPRINT = {False: _OF_FINGERPRINT, True: _OF_FINGERPRINT.options(*_WHOLE)}


def find_base(session: Session, name: str, *, whole: bool = False) -> BaseModelRow:
    """Return the base with the id or fingerprint `name`, with `whole` also its config and tensors. Raises NotFound."""
    query, said = _BY_FINGERPRINT[whole], {"fingerprint": name}
    if _FINGERPRINT.fullmatch(name) is None:
        matches = BaseModelRow.id == name
        if _SHORTENED.fullmatch(name):
            matches = or_(matches, BaseModelRow.fingerprint.startswith(name))
        query, said = select(BaseModelRow).where(matches).order_by(BaseModelRow.created_at.desc()).limit(1), {}
        if whole:
            query = query.options(*_WHOLE)
    row = session.scalars(query, said).first()
    if row is None:
        raise NotFound(f"there is no base {name[:200]!a}; add it with: adapterctl base add FOLDER", param="base")
    return row


class KnownBase(NamedTuple):
    """What a publication needs of a base. Once it is registered, none of it ever changes."""

    pk: int
    brief: BaseBrief
    #: Name to shape of each tensor.
    tensors: dict[str, list[int]]


class KnownBases:
    """The bases that publications named last: the names of thousands of tensors are read once, not for each of them."""

    def __init__(self, *, keep: int = 16) -> None:
        self._keep = keep
        self._known: dict[str, KnownBase] = {}
        self._guard = Lock()

    def find(self, session: Session, fingerprint: str) -> KnownBase:
        """Return the base with a whole fingerprint. Raises NotFound."""
        with self._guard:
            known = self._known.pop(fingerprint, None)
        if known is None:
            row = find_base(session, fingerprint, whole=True)
            known = KnownBase(row.pk, brief_base(row), row.tensors)
        with self._guard:
            # The one named last stands at the end.
            self._known[fingerprint] = known
            while len(self._known) > self._keep:
                del self._known[next(iter(self._known))]
        return known


def _require_owner(row: BaseModelRow, who: Principal) -> None:
    if row.location is not None and row.created_by != who.name and who.namespaces("admin") is not None:
        raise Forbidden(
            f"base {row.id} was registered by {row.created_by}, who or an admin may say where it lies; ask one of them",
            param="location",
        )


def source_of(session: Session, row: BaseModelRow) -> BaseSource:
    """Say where a worker finds a base."""
    manifest = None if row.manifest_digest is None else read_manifest(session, row.manifest_digest)
    return BaseSource(
        id=row.id, revision=row.revision, fingerprint=row.fingerprint, location=row.location, manifest=manifest
    )


def brief_base(row: BaseModelRow) -> BaseBrief:
    """Return a base as a version names it."""
    return BaseBrief(
        id=row.id,
        revision=row.revision,
        fingerprint=row.fingerprint,
        weights_digest=row.weights_digest,
        architecture=row.architecture,
    )


def view_base(row: BaseModelRow, *, whole: bool = False) -> BaseView:
    """Return a base as it travels; with its config where `whole`."""
    return BaseView(
        id=row.id,
        revision=row.revision,
        fingerprint=row.fingerprint,
        weights_digest=row.weights_digest,
        architecture=row.architecture,
        location=row.location,
        uploaded=row.manifest_digest is not None,
        size_bytes=row.size_bytes,
        created_at=row.created_at,
        config=row.config if whole else None,
    )
