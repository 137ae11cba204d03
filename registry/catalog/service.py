"""Reading the catalogue, and moving aliases."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.catalog.lifecycle import VersionState
from registry.catalog.models import Adapter, Alias, AliasMoveRow, BaseModelRow, Version
from registry.catalog.resolve import exact_ref, find_published, find_version, parse_ref, view_version, view_versions
from registry.db import Database, insert_if_new, utc_now
from registry.errors import Conflict
from sdk.schemas.catalog import AdapterView, AliasMove, AliasView, VersionView
from sdk.schemas.refs import Ref


class Catalog:
    """The service over adapters, versions and aliases."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def resolve(self, ref: str) -> VersionView:
        """Return the version that a ref names now. Raises InvalidName, InvalidRef, NotFound."""
        parsed = parse_ref(ref)
        with self._db.read() as session:
            return view_version(session, find_version(session, parsed))

    def versions(self, *, adapter: str) -> list[VersionView]:
        """The ready versions of an adapter, the newest first. Raises InvalidName, NotFound."""
        with self._db.read() as session:
            row = find_published(session, adapter)
            query = select(Version).where(Version.adapter_pk == row.pk, Version.state == VersionState.READY)
            return view_versions(session, session.scalars(query.order_by(Version.number.desc())).all())

    def adapters(self, *, after: str, limit: int) -> list[AdapterView]:
        """Adapters with a ready version, by name, beginning after the name `after`."""
        with self._db.read() as session:
            latest = (
                select(
                    Version.adapter_pk,
                    func.max(Version.number).label("number"),
                    func.count().label("versions"),
                )
                .where(Version.state == VersionState.READY)
                .group_by(Version.adapter_pk)
                .subquery()
            )
            query = (
                select(Adapter.name, latest.c.number, latest.c.versions, BaseModelRow.id, Version.created_at)
                .join(latest, latest.c.adapter_pk == Adapter.pk)
                .join(Version, (Version.adapter_pk == Adapter.pk) & (Version.number == latest.c.number))
                .join(BaseModelRow, BaseModelRow.pk == Version.base_pk)
                .where(Adapter.name > after)
                .order_by(Adapter.name)
                .limit(limit)
            )
            return [
                AdapterView(adapter=name, latest=f"{name}@v{number}", versions=versions, base=base, updated_at=at)
                for name, number, versions, base, at in session.execute(query)
            ]

    def aliases(self, *, adapter: str) -> list[AliasView]:
        """The aliases of an adapter, by name."""
        with self._db.read() as session:
            row = find_published(session, adapter)
            query = (
                select(Alias, Version).join(Version, Version.pk == Alias.version_pk).where(Alias.adapter_pk == row.pk)
            )
            return [_alias_view(row, alias, version) for alias, version in session.execute(query.order_by(Alias.name))]

    def move_alias(self, *, move: AliasMove, by: str) -> AliasView:
        """Point an alias at a version, if it names `expect` now (0: nothing). Raises NotFound, Conflict."""
        with self._db.write() as session:
            adapter = find_published(session, move.adapter)
            version = find_version(session, Ref(move.adapter, f"v{move.number}"))
            alias = _locked(session, adapter, move.alias)
            if alias is None:
                _compare(move, None)
                new = {"adapter_pk": adapter.pk, "name": move.alias, "version_pk": version.pk, "moved_by": by}
                fresh = insert_if_new(session, Alias, **new)
                alias = session.get_one(Alias, (adapter.pk, move.alias), with_for_update=True, populate_existing=True)
                if fresh:
                    _remember(session, adapter, move, None, by)
                    return _alias_view(adapter, alias, version)
            # It was there, or somebody else made it just now.
            present = session.get_one(Version, alias.version_pk)
            _compare(move, present)
            alias.version_pk, alias.moved_by, alias.moved_at = version.pk, by, utc_now()
            session.flush()
            _remember(session, adapter, move, present.number, by)
            return _alias_view(adapter, alias, version)


def _locked(session: Session, adapter: Adapter, name: str) -> Alias | None:
    # The row is locked on PostgreSQL; SQLite's transaction is the only writer already. The version is read after:
    # a join would be judged by the version that the alias named before the wait.
    query = select(Alias).where(Alias.adapter_pk == adapter.pk, Alias.name == name)
    return session.scalars(query.with_for_update()).first()


def _remember(session: Session, adapter: Adapter, move: AliasMove, from_number: int | None, by: str) -> None:
    session.add(
        AliasMoveRow(
            adapter_pk=adapter.pk,
            alias=move.alias,
            from_number=from_number,
            to_number=move.number,
            reason=move.reason,
            moved_by=by,
        )
    )


def _compare(move: AliasMove, present: Version | None) -> None:
    if move.expect is None:
        return
    number = 0 if present is None or present.number is None else present.number
    if number != move.expect:
        now = "nothing" if number == 0 else f"v{number}"
        raise Conflict(
            f"{move.adapter}@{move.alias} names {now}, not v{move.expect}; look at it with: adapterctl alias list {move.adapter}",
            param="expect",
        )


def _alias_view(adapter: Adapter, alias: Alias, version: Version) -> AliasView:
    return AliasView(
        adapter=adapter.name,
        alias=alias.name,
        ref=exact_ref(version),
        number=version.number or 0,
        moved_at=alias.moved_at,
        moved_by=alias.moved_by,
    )
