"""Aliases: compare-and-set moves, their history, rollback, and protection.

What an alias named before its last move follows from the moves that are on record:

>>> named_before([Moved("set", None, 1), Moved("set", 1, 2), Moved("rollback", 2, 1), Moved("set", 1, 3)])
1
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Unpack

from sqlalchemy import ColumnElement, delete, func, or_, select
from sqlalchemy.orm import Session

from registry.access.audit.service import record
from registry.catalog.models import Adapter, Alias, AliasMoveRow, AliasProtection, Version
from registry.catalog.versions.finding import exact_ref, find_adapter, find_version
from registry.catalog.versions.lifecycle import PULLABLE
from registry.catalog.versions.present import refresh_document
from registry.db.database import Database
from registry.db.paging import Paged, Paging, page_of
from registry.db.statements import insert_if_new
from registry.db.stored_json import view_of
from registry.db.types import utc_now
from registry.errors import Conflict, Forbidden, InvalidName, NotFound
from registry.principal import EVERYWHERE, Principal
from sdk.formats.refs import BadNameError, Ref, parse_alias, parse_scope
from sdk.schemas.aliases import AliasMove, AliasMoveView, AliasRemoval, AliasRollback, AliasView, ProtectionView

#: How many aliases one adapter may have: each version is shown with all of its own.
MOST_ALIASES = 1000
#: How many protections one namespace may have.
MOST_PROTECTIONS = 1000


#: How many of an alias's last moves are looked at: there may be any number.
MOST_MOVES = 1000

#: Looked up alias by alias, since there may be any number of moves.
_LAST_MOVE = (
    select(func.max(AliasMoveRow.pk))
    .where(AliasMoveRow.adapter_pk == Alias.adapter_pk, AliasMoveRow.alias == Alias.name)
    .correlate(Alias)
    .scalar_subquery()
)
#: Aliases, what they name, and the number of the move that made it so.
_NAMED = select(Alias, Version, _LAST_MOVE).join(Version, Version.pk == Alias.version_pk)


class Aliases:
    """The service over the tables of aliases. Every change holds the lock of the adapter's row."""

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
                return [view_of(AliasMoveView, move, adapter=row.name) for move in moves]

            return page_of(session, query, AliasMoveRow.pk, views=views, **page)

    def move(self, *, move: AliasMove, who: Principal) -> AliasView:
        """Point an alias at a version, if it names `expect` now (0: nothing).

        Raises NotFound, Forbidden if it is protected and the caller is not a promoter, Conflict.
        """
        with self._db.write() as session:
            adapter = movable(session, move.adapter, move.alias, who)
            version = find_version(session, Ref(move.adapter, f"v{move.number}"), who)
            return _point(session, adapter, move.alias, version, move.expect, "set", move.reason, who)

    def rollback(self, *, rollback: AliasRollback, who: Principal) -> AliasView:
        """Point an alias at the version that it named before its last move, if it names `expect` now (0: nothing).

        Raises NotFound for an alias that never existed, Conflict if it names another version, named none before, or that one is
        gone.
        """
        with self._db.write() as session:
            adapter = movable(session, rollback.adapter, rollback.alias, who)
            before = _before(session, adapter, rollback.alias)
            query = select(Version).where(Version.adapter_pk == adapter.pk, Version.number == before)
            version = session.scalars(query).one()
            if version.state not in PULLABLE:
                raise Conflict(
                    f"{adapter.name}@{rollback.alias} named {exact_ref(version)} before, which is {version.state}; "
                    f"choose another with: adapterctl alias set {adapter.name} {rollback.alias} vN"
                )
            return _point(session, adapter, rollback.alias, version, rollback.expect, "rollback", rollback.reason, who)

    def remove(self, *, removal: AliasRemoval, who: Principal) -> None:
        """Remove an alias; its history stays. Raises NotFound, Forbidden, Conflict."""
        with self._db.write() as session:
            adapter = movable(session, removal.adapter, removal.alias, who)
            alias = session.get(Alias, (adapter.pk, removal.alias))
            if alias is None:
                raise NotFound(
                    f"there is no alias {adapter.name}@{removal.alias}; see: adapterctl alias list {adapter.name}",
                    param="alias",
                )
            version = session.get_one(Version, alias.version_pk)
            _compare(adapter, removal.alias, removal.expect, version)
            session.delete(alias)
            _remember(session, adapter, removal.alias, "remove", version.number, None, removal.reason, who)
            refresh_document(session, version)

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
            protected = _protected(session, row)
            found = session.execute(_NAMED.where(Alias.adapter_pk == row.pk).order_by(Alias.name))
            return [_present(row, alias, version, protected, move) for alias, version, move in found]


def _point(
    session: Session,
    adapter: Adapter,
    name: str,
    version: Version,
    expect: int | None,
    kind: str,
    reason: str,
    who: Principal,
) -> AliasView:
    alias = session.get(Alias, (adapter.pk, name), populate_existing=True)
    present = None if alias is None else session.get_one(Version, alias.version_pk)
    _compare(adapter, name, expect, present)
    if alias is None:
        _require_few_aliases(session, adapter)
        alias = Alias(adapter_pk=adapter.pk, name=name, version_pk=version.pk, moved_by=who.name, moved_at=utc_now())
        session.add(alias)
    else:
        alias.version_pk, alias.moved_by, alias.moved_at = version.pk, who.name, utc_now()
    from_number = None if present is None else present.number
    move = _remember(session, adapter, name, kind, from_number, version.number, reason, who)
    for touched in {version.pk: version, **({} if present is None else {present.pk: present})}.values():
        refresh_document(session, touched)
    return _present(adapter, alias, version, _protected(session, adapter), move)


def named_now(session: Session, adapter: Adapter, alias: str) -> tuple[Version, int]:
    """Return the version that an alias names now, and the number of the move that made it so. Raises NotFound."""
    found = session.execute(_NAMED.where(Alias.adapter_pk == adapter.pk, Alias.name == alias)).first()
    if found is None:
        raise NotFound(
            f"there is no alias {adapter.name}@{alias}; see: adapterctl alias list {adapter.name}", param="alias"
        )
    _, version, move = found
    return version, move


def _require_few_aliases(session: Session, adapter: Adapter) -> None:
    there = session.scalar(select(func.count()).select_from(Alias).where(Alias.adapter_pk == adapter.pk)) or 0
    if there >= MOST_ALIASES:
        raise Conflict(
            f"{adapter.name} has {MOST_ALIASES} aliases, and can't have more; remove one with: "
            f"adapterctl alias rm {adapter.name} ALIAS",
            param="alias",
        )


def _before(session: Session, adapter: Adapter, alias: str) -> int:
    """The number that an alias named before its last move; moves that were undone don't count. Raises NotFound,
    Conflict.
    """
    columns = (AliasMoveRow.kind, AliasMoveRow.from_number, AliasMoveRow.to_number)
    history = select(*columns).where(AliasMoveRow.adapter_pk == adapter.pk, AliasMoveRow.alias == alias)
    newest = session.execute(history.order_by(AliasMoveRow.pk.desc()).limit(MOST_MOVES)).all()
    moves = [Moved(*row) for row in reversed(newest)]
    if not moves:
        raise NotFound(
            f"there is no alias {adapter.name}@{alias}; see: adapterctl alias list {adapter.name}", param="alias"
        )
    before = named_before(moves)
    if before is None:
        raise Conflict(
            f"{adapter.name}@{alias} named no version before; choose one with: adapterctl alias set {adapter.name} {alias} vN"
        )
    return before


def _remember(
    session: Session,
    adapter: Adapter,
    alias: str,
    kind: str,
    from_number: int | None,
    to_number: int | None,
    reason: str,
    who: Principal,
) -> int:
    move = AliasMoveRow(
        adapter_pk=adapter.pk,
        alias=alias,
        kind=kind,
        from_number=from_number,
        to_number=to_number,
        reason=reason,
        moved_by=who.name,
    )
    session.add(move)
    session.flush()
    record(
        session,
        who,
        f"alias.{kind}",
        adapter.namespace,
        f"{adapter.name}@{alias}",
        before={"number": from_number},
        after={"number": to_number, "reason": reason},
    )
    return move.pk


def _compare(adapter: Adapter, alias: str, expect: int | None, present: Version | None) -> None:
    if expect is None:
        return
    number = 0 if present is None or present.number is None else present.number
    if number != expect:
        now = "nothing" if number == 0 else f"v{number}"
        raise Conflict(
            f"{adapter.name}@{alias} names {now}, not v{expect}; look at it with: adapterctl alias list {adapter.name}",
            param="expect",
        )


def _protected(session: Session, adapter: Adapter) -> set[str]:
    scopes = ["*", adapter.name, *([] if adapter.namespace == "-" else [f"{adapter.namespace}/*"])]
    query = select(AliasProtection.alias).where(AliasProtection.scope.in_(scopes))
    return set(session.scalars(query))


def movable(session: Session, name: str, alias: str, who: Principal) -> Adapter:
    """Return an adapter of which the caller may move this alias, with its lock. Raises NotFound, Forbidden."""
    adapter = find_adapter(session, name, who, action="write", lock=True)
    if not who.may("promote", adapter.namespace) and alias in _protected(session, adapter):
        raise Forbidden(
            f"{adapter.name}@{alias} is protected, so only a promoter can move it; ask one, or use another alias",
            param="alias",
        )
    return adapter


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


def _present(adapter: Adapter, alias: Alias, version: Version, protected: set[str], move: int) -> AliasView:
    return AliasView(
        adapter=adapter.name,
        alias=alias.name,
        ref=exact_ref(version),
        number=version.number or 0,
        move=move,
        protected=alias.name in protected,
        moved_at=alias.moved_at,
        moved_by=alias.moved_by,
    )


class Moved(NamedTuple):
    """One move, of the kind "set", "rollback" or "remove"; None: the alias named nothing."""

    kind: str
    from_number: int | None
    to_number: int | None


def named_before(moves: Sequence[Moved]) -> int | None:
    """Return the number that an alias named before its last move; moves that were undone don't count.

    Of what was before the first of these moves, only what that one replaced is known. None: it named nothing before, or
    nothing that is known.
    """
    stack: list[int | None] = [moves[0].from_number]
    for move in moves:
        if move.kind == "rollback":
            _take_last(stack)
            stack = stack or [move.to_number]
        elif not stack or stack[-1] != move.to_number:
            stack.append(move.to_number)
    _take_last(stack)
    return stack[-1] if stack else None


def _take_last(stack: list[int | None]) -> None:
    """Go back to the version before the last move; times when the alias named nothing are skipped."""
    if stack:
        stack.pop()
    while stack and stack[-1] is None:
        stack.pop()
