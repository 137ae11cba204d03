"""Moves of aliases within a transaction: all checks of the catalog, and the history.

Whether an alias may move there at all is not asked here: that is the gate's part, `registry.promotion.gate`, and nothing
else may import this module.
"""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.access.audit.service import record
from registry.catalog.aliases.present import present_alias
from registry.catalog.aliases.protecting import protected_aliases
from registry.catalog.aliases.undoing import Moved, named_before
from registry.catalog.models import Adapter, Alias, AliasMoveRow, Version
from registry.catalog.versions.finding import exact_ref
from registry.catalog.versions.lifecycle import PULLABLE
from registry.catalog.versions.present import refresh_document
from registry.db.types import utc_now
from registry.errors import Conflict, Forbidden, NotFound
from registry.principal import Principal
from sdk.schemas.aliases import AliasView

#: How many aliases one adapter may have: each version is shown with all of its own.
MOST_ALIASES = 1000
#: How many of an alias's last moves are looked at: there may be any number.
MOST_MOVES = 1000


class MovedBy(NamedTuple):
    """Who moves an alias and why, and the decision that lets them; None: no policy stands."""

    who: Principal
    reason: str
    decision: str | None = None
    outcome: str | None = None


def require_movable(session: Session, adapter: Adapter, alias: str, who: Principal) -> None:
    """Raise Forbidden for an alias of which the caller may not say what it names."""
    if not who.may("promote", adapter.namespace) and alias in protected_aliases(session, adapter):
        raise Forbidden(
            f"{adapter.name}@{alias} is protected, so only a promoter can move it; ask one, or use another alias",
            param="alias",
        )


def named_now(session: Session, adapter: Adapter, alias: str) -> Version | None:
    """Return the version that an alias names."""
    query = select(Version).join(Alias, Alias.version_pk == Version.pk)
    return session.scalars(query.where(Alias.adapter_pk == adapter.pk, Alias.name == alias)).first()


def require_named(adapter: Adapter, alias: str, expect: int | None, present: Version | None) -> None:
    """Raise Conflict unless an alias names `expect` now (0: nothing; None: whatever it names)."""
    if expect is None:
        return
    number = 0 if present is None or present.number is None else present.number
    if number != expect:
        now = "nothing" if number == 0 else f"v{number}"
        raise Conflict(
            f"{adapter.name}@{alias} names {now}, not v{expect}; look at it with: adapterctl alias list {adapter.name}",
            param="expect",
        )


def undone_to(session: Session, adapter: Adapter, alias: str) -> Version:
    """Return the version that an alias named before its last move; moves that were undone don't count.

    Raises NotFound for an alias that never existed, Conflict if it named none before, or that one is gone.
    """
    columns = (AliasMoveRow.kind, AliasMoveRow.from_number, AliasMoveRow.to_number)
    history = select(*columns).where(AliasMoveRow.adapter_pk == adapter.pk, AliasMoveRow.alias == alias)
    newest = session.execute(history.order_by(AliasMoveRow.pk.desc()).limit(MOST_MOVES)).all()
    moves = [Moved(*row) for row in reversed(newest)]
    if not moves:
        raise _no_alias(adapter, alias)
    before = named_before(moves)
    if before is None:
        raise Conflict(
            f"{adapter.name}@{alias} named no version before; choose one with: adapterctl alias set {adapter.name} {alias} vN"
        )
    query = select(Version).where(Version.adapter_pk == adapter.pk, Version.number == before)
    version = session.scalars(query).one()
    if version.state not in PULLABLE:
        raise Conflict(
            f"{adapter.name}@{alias} named {exact_ref(version)} before, which is {version.state}; "
            f"choose another with: adapterctl alias set {adapter.name} {alias} vN"
        )
    return version


def point(
    session: Session, adapter: Adapter, name: str, version: Version, *, expect: int | None, kind: str, by: MovedBy
) -> AliasView:
    """Point an alias at a version of its adapter, whose lock is held, if it names `expect` now. Set to where it is already, it
    stays, with its history. Raises Conflict.
    """
    alias = session.get(Alias, (adapter.pk, name), populate_existing=True)
    present = None if alias is None else session.get_one(Version, alias.version_pk)
    require_named(adapter, name, expect, present)
    if alias is not None and kind == "set" and alias.version_pk == version.pk:
        protected = name in protected_aliases(session, adapter)
        return present_alias(
            adapter, alias, version, protected=protected, move=_last_move(session, alias), decision=None, moved=False
        )
    if alias is None:
        _require_few_aliases(session, adapter)
        alias = Alias(adapter_pk=adapter.pk, name=name, version_pk=version.pk, moved_by=by.who.name, moved_at=utc_now())
        session.add(alias)
    else:
        alias.version_pk, alias.moved_by, alias.moved_at = version.pk, by.who.name, utc_now()
    from_number = None if present is None else present.number
    move = _remember(session, adapter, name, kind, from_number, version.number, by)
    for touched in {version.pk: version, **({} if present is None else {present.pk: present})}.values():
        refresh_document(session, touched)
    protected = name in protected_aliases(session, adapter)
    return present_alias(adapter, alias, version, protected=protected, move=move, decision=by.decision, moved=True)


def _last_move(session: Session, alias: Alias) -> int:
    """Return the key of an alias's last move; 0 if it is not known."""
    query = select(func.max(AliasMoveRow.pk))
    return session.scalar(query.filter_by(adapter_pk=alias.adapter_pk, alias=alias.name)) or 0


def remove(session: Session, adapter: Adapter, name: str, *, expect: int | None, by: MovedBy) -> int:
    """Remove an alias of an adapter whose lock is held, if it names `expect` now, and return the key of the move; its
    history stays. Raises NotFound, Conflict.
    """
    alias = session.get(Alias, (adapter.pk, name), populate_existing=True)
    if alias is None:
        raise _no_alias(adapter, name)
    version = session.get_one(Version, alias.version_pk)
    require_named(adapter, name, expect, version)
    session.delete(alias)
    move = _remember(session, adapter, name, "remove", version.number, None, by)
    refresh_document(session, version)
    return move


def require_there(adapter: Adapter, alias: str, present: Version | None) -> Version:
    """Return the version that an alias names now. Raises NotFound if it names none."""
    if present is None:
        raise _no_alias(adapter, alias)
    return present


def _no_alias(adapter: Adapter, alias: str) -> NotFound:
    return NotFound(
        f"there is no alias {adapter.name}@{alias}; see: adapterctl alias list {adapter.name}", param="alias"
    )


def _require_few_aliases(session: Session, adapter: Adapter) -> None:
    there = session.scalar(select(func.count()).select_from(Alias).where(Alias.adapter_pk == adapter.pk)) or 0
    if there >= MOST_ALIASES:
        raise Conflict(
            f"{adapter.name} has {MOST_ALIASES} aliases, and can't have more; remove one with: "
            f"adapterctl alias rm {adapter.name} ALIAS",
            param="alias",
        )


def _remember(
    session: Session,
    adapter: Adapter,
    alias: str,
    kind: str,
    from_number: int | None,
    to_number: int | None,
    by: MovedBy,
) -> int:
    move = AliasMoveRow(
        adapter_pk=adapter.pk,
        alias=alias,
        kind=kind,
        from_number=from_number,
        to_number=to_number,
        reason=by.reason,
        moved_by=by.who.name,
        decision=by.decision,
        outcome=by.outcome,
    )
    session.add(move)
    session.flush()
    record(
        session,
        by.who,
        f"alias.{kind}",
        adapter.namespace,
        f"{adapter.name}@{alias}",
        before={"number": from_number},
        after={"number": to_number, "reason": by.reason},
    )
    return move.pk
