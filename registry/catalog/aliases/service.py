"""Aliases as they are, their history, and their protection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from sqlalchemy import ColumnElement, delete, func, or_, select
from sqlalchemy.orm import Session, lazyload, load_only, raiseload

from registry.access.audit.service import record
from registry.catalog.aliases.present import last_move, present_alias
from registry.catalog.aliases.protecting import protected_aliases
from registry.catalog.models import Alias, AliasMoveRow, AliasProtection, Version
from registry.catalog.versions.finding import find_adapter
from registry.db.database import Database
from registry.db.paging import Paged, Paging, page_of
from registry.db.statements import insert_if_new
from registry.db.stored_json import view_of
from registry.errors import Conflict, InvalidName, NotFound
from registry.principal import EVERYWHERE, Principal
from sdk.formats.refs import BadNameError, parse_alias, parse_scope
from sdk.schemas.aliases import AliasMoveView, AliasView, ProtectionView

#: How many protections one namespace may have.
MOST_PROTECTIONS = 1000


class Aliases:
    """The service that shows aliases and protects them; they are moved by `registry.promotion.gate` alone."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def history(
        self, *, adapter: str, alias: str | None, who: Principal, **page: Unpack[Paging]
    ) -> Paged[AliasMoveView]:
        """The moves of an adapter's aliases, or of one of them, newest first."""
        with self._db.read() as session:
            row = find_adapter(session, adapter, who)
            query = select(AliasMoveRow).where(AliasMoveRow.adapter_pk == row.pk)
            if alias is not None:
                query = query.where(AliasMoveRow.alias == alias)

            def views(moves: Sequence[AliasMoveRow]) -> list[AliasMoveView]:
                return [view_of(AliasMoveView, move, adapter=row.name, move=move.pk) for move in moves]

            return page_of(session, query, AliasMoveRow.pk, views=views, **page)

    def protect(self, *, scope: str, alias: str, who: Principal) -> ProtectionView:
        """Let only promoters move an alias, of one adapter, of a namespace (`team/*`) or of all (`*`); repeating it is harmless."""
        with self._db.write() as session:
            namespace = _checked_scope(scope, alias, who)
            while True:
                if insert_if_new(session, AliasProtection, scope=scope, alias=alias, created_by=who.name):
                    _require_few_protections(session, namespace)
                    record(session, who, "alias.protect", namespace, f"{scope}@{alias}")
                row = session.get(AliasProtection, (scope, alias))
                if row is not None:
                    return view_of(ProtectionView, row)
                # It existed, and somebody has removed it since.

    def unprotect(self, *, scope: str, alias: str, who: Principal) -> None:
        """Let every writer move an alias again. Raises NotFound."""
        with self._db.write() as session:
            namespace = _checked_scope(scope, alias, who)
            gone = session.execute(
                delete(AliasProtection)
                .where(AliasProtection.scope == scope, AliasProtection.alias == alias)
                .returning(AliasProtection.alias)
            ).first()
            if gone is None:
                raise NotFound(f"{scope}@{alias} is not protected; see: adapterctl alias protected", param="alias")
            record(session, who, "alias.unprotect", namespace, f"{scope}@{alias}")

    def protections(self, *, who: Principal) -> list[ProtectionView]:
        """The protections that the caller may see."""
        with self._db.read() as session:
            reads = who.namespaces()
            query = select(AliasProtection).order_by(AliasProtection.scope, AliasProtection.alias)
            if reads is not None:
                query = query.where(or_(*(_of_space(namespace) for namespace in {*reads, EVERYWHERE})))
            return [view_of(ProtectionView, row) for row in session.scalars(query)]

    def list(self, *, adapter: str, who: Principal) -> list[AliasView]:
        """The aliases of an adapter, by name. Raises InvalidName, NotFound."""
        with self._db.read() as session:
            row = find_adapter(session, adapter, who)
            protected = protected_aliases(session, row)
            query = (
                select(Alias, Version, AliasMoveRow.pk, AliasMoveRow.decision)
                .join(Version, Version.pk == Alias.version_pk)
                .outerjoin(AliasMoveRow, AliasMoveRow.pk == last_move())
                # There may be thousands, and configurations are large.
                .options(
                    load_only(Version.number, Version.digest, Version.adapter_pk),
                    raiseload(Version.base),
                    lazyload(Version.adapter),
                )
            )
            named = session.execute(query.where(Alias.adapter_pk == row.pk).order_by(Alias.name))
            return [
                present_alias(row, alias, version, protected=alias.name in protected, move=move or 0, decision=decision)
                for alias, version, move, decision in named
            ]


def _checked_scope(scope: str, alias: str, who: Principal) -> str:
    """Check scope, alias and rights; return the namespace for the audit trail."""
    try:
        parse_scope(scope)
        parse_alias(alias)
    except BadNameError as error:
        raise InvalidName(str(error), param="scope") from None
    namespace = EVERYWHERE if scope == "*" else scope.rpartition("/")[0] or "-"
    who.require("admin", namespace, missing=f"there is nothing under {scope!r} that this token may see")
    return namespace


def _of_space(namespace: str) -> ColumnElement[bool]:
    """The condition that a protection is for adapters of a namespace, or for all."""
    scope = AliasProtection.scope
    if namespace == EVERYWHERE:
        return scope == "*"
    return (
        ~scope.contains("/") & (scope != "*")
        if namespace == "-"
        else scope.startswith(f"{namespace}/", autoescape=True)
    )


def _require_few_protections(session: Session, namespace: str) -> None:
    there = session.scalar(select(func.count()).select_from(AliasProtection).where(_of_space(namespace))) or 0
    if there > MOST_PROTECTIONS:
        raise Conflict(
            f"there are {MOST_PROTECTIONS} protected aliases in {namespace!r} already; protect one for all adapters of the "
            f"namespace, or remove some: adapterctl alias protected",
            param="alias",
        )
