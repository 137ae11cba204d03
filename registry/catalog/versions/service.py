"""Reading the catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol, Unpack

from pydantic import ValidationError
from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from registry.catalog.models import Adapter, Version, VersionDocument
from registry.catalog.versions.finding import find_adapter, find_version, parse_ref, parse_ref_or_member
from registry.catalog.versions.lifecycle import PULLABLE, VersionState
from registry.catalog.versions.present import present, present_all
from registry.db.database import Database
from registry.db.paging import Paged, Paging, page_of
from registry.principal import Principal, require_namespace
from sdk.formats.refs import MemberRef
from sdk.schemas.catalog import AdapterView, VersionView
from sdk.schemas.probe import VersionNorms
from sdk.schemas.wire import read_json


class Members(Protocol):
    """Shows members of sweeps; the room of jobs does it."""

    def resolve(self, ref: MemberRef, *, who: Principal) -> VersionView:
        """Return what a member has kept. Raises NotFound."""


class Catalog:
    """The service over adapters and versions."""

    def __init__(self, db: Database, members: Members) -> None:
        self._db = db
        self._members = members

    def resolve(self, ref: str, *, who: Principal) -> VersionView:
        """Return the version that a ref names now, or the member of a sweep. Raises InvalidName, InvalidRef, NotFound."""
        parsed = parse_ref_or_member(ref)
        if isinstance(parsed, MemberRef):
            return self._members.resolve(parsed, who=who)
        with self._db.read() as session:
            version = find_version(session, parsed, who)
            document = session.get(VersionDocument, version.pk)
            if document is None or (document.foreign and who.namespaces() is not None):
                return present(session, version, who)
            try:
                return read_json(VersionView, document.body, open_ended=True)
            except ValidationError:
                # It was written by another release; the rows that it is made from may still be readable.
                return present(session, version, who)

    def norms(self, ref: str, *, who: Principal) -> VersionNorms:
        """Return what the version that a ref names now adds to its base, module by module.

        It is held in a block of `holding_facts`. Raises InvalidName, InvalidRef, NotFound, Unreadable, Unavailable,
        TurnNeededError.
        """
        parsed = parse_ref(ref)
        # It takes the code that examines what is pushed.
        from registry.catalog.versions.norms import norms_of

        return norms_of(self._db, lambda session: find_version(session, parsed, who))

    def versions(self, *, adapter: str, archived: bool, who: Principal, **page: Unpack[Paging]) -> Paged[VersionView]:
        """The ready versions of an adapter, with `archived` the archived ones too, newest first. Raises InvalidName,
        NotFound.
        """
        states = PULLABLE if archived else (VersionState.READY,)
        with self._db.read() as session:
            row = find_adapter(session, adapter, who)
            query = select(Version).where(Version.adapter_pk == row.pk, Version.state.in_(states))

            views = partial(present_all, session, who=who)
            return page_of(session, query, Version.number, views=views, weight=Version.record_bytes, **page)

    def adapters(
        self, *, namespace: str | None, prefix: str, who: Principal, **page: Unpack[Paging]
    ) -> Paged[AdapterView]:
        """Adapters with a ready version that the caller may see, by name; those of one namespace ("-": without one) or
        of all.
        """
        query = select(Adapter).where(Adapter.latest_number.is_not(None), who.within(Adapter.namespace))
        if namespace is not None:
            require_namespace(namespace, "or '-' for names without one", also=("-",), param="namespace")
            query = query.where(Adapter.namespace == namespace)
        if prefix:
            query = query.where(Adapter.name.startswith(prefix, autoescape=True))
        with self._db.read() as session:
            views = partial(_present_adapters, session)
            return page_of(session, query, Adapter.name, views=views, oldest_first=True, **page)


def _present_adapters(session: Session, adapters: Sequence[Adapter]) -> list[AdapterView]:
    query = select(Version.adapter_pk, Version.base_id, Version.kind).where(
        tuple_(Version.adapter_pk, Version.number).in_([(row.pk, row.latest_number) for row in adapters])
    )
    last = {row.adapter_pk: row for row in session.execute(query)}
    return [
        AdapterView(
            adapter=adapter.name,
            latest=None if adapter.latest_number is None else f"{adapter.name}@v{adapter.latest_number}",
            versions=adapter.ready_versions,
            kind=last[adapter.pk].kind if adapter.pk in last else "adapter",
            base=last[adapter.pk].base_id if adapter.pk in last else None,
            size_bytes=adapter.size_bytes,
            updated_at=adapter.updated_at,
        )
        for adapter in adapters
    ]
