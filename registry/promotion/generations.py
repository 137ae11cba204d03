"""Generations: numbers that rise with each change of what decisions are made by, of the registry, a namespace, an adapter.

A verdict is computed outside of any transaction. The one that moves the alias holds these numbers: as long as they are
the same as when the inputs were read, so are the inputs, and whoever changes one waits until the alias has moved.

Every transaction takes these locks in the same order, so that no two wait for each other:

1. the row of the adapter, if it changes anything about it, and whatever else it locks while it works;
2. generations: `*`, then those of namespaces, then those of adapters, each by name. Moves hold them for what they write
   then; all others raise them right before the commit, whenever `raise_generation` was called;
3. what is charged to namespaces, by name, and counters: right before the commit too.

>>> scopes_of("team/code-review", "team")
('*', 'team/*', 'team/code-review')
>>> scopes_of("code-review", "-")
('*', '-/*', 'code-review')
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session

from registry.db.statements import append_new, connection_of
from registry.principal import EVERYWHERE
from registry.promotion.models import Generation
from registry.usage.charging import before_charges

#: The key under which a session keeps which scopes it will raise.
_RAISED = "raised generations"
_RAISE = update(Generation).where(Generation.scope == bindparam("raised")).values(number=Generation.number + 1)


def scopes_of(adapter: str, namespace: str) -> tuple[str, str, str]:
    """Return what a decision about an adapter depends on, in the order in which it is held: all, its namespace, itself."""
    return (EVERYWHERE, scope_of_namespace(namespace), adapter)


def scope_of_namespace(namespace: str) -> str:
    """Return the scope of what belongs to a namespace ("-": names without one), or to all ("*")."""
    return EVERYWHERE if namespace == EVERYWHERE else f"{namespace}/*"


def read(session: Session, scopes: Sequence[str]) -> tuple[int, ...]:
    """Return the numbers of these scopes; 0 for one of which nothing has changed yet."""
    query = select(Generation.scope, Generation.number).where(Generation.scope.in_(scopes))
    there = {row.scope: row.number for row in connection_of(session).execute(query)}
    return tuple(there.get(scope, 0) for scope in scopes)


def hold(session: Session, scopes: Sequence[str]) -> tuple[int, ...]:
    """Let nobody raise these until the transaction ends, and return their numbers; `scopes` are those of `scopes_of`.

    The caller holds the lock of the adapter's row and takes no other lock that somebody may wait with. Transactions of
    different adapters hold the wide scopes at the same time; the last one, the adapter's own, is held alone.
    """
    append_new(session, Generation, *({"scope": scope, "number": 0} for scope in scopes))
    numbers = []
    for scope in scopes:
        # One by one: the order in which a single statement locks its rows is the planner's.
        row = select(Generation.number).where(Generation.scope == scope).with_for_update(read=scope != scopes[-1])
        numbers.append(connection_of(session).execute(row).scalar_one())
    return tuple(numbers)


def hold_alone(session: Session, scope: str) -> None:
    """Let nobody else who calls this go on until the transaction ends, nor any move that is decided by the scope.

    For transactions that lock no adapter.
    """
    append_new(session, Generation, {"scope": scope, "number": 0})
    connection_of(session).execute(select(Generation.number).where(Generation.scope == scope).with_for_update())


def raise_generation(session: Session, scope: str) -> None:
    """Note that something changed by which decisions about adapters of a scope are made.

    It is written right before the commit, and waits for moves that hold the scope. So it doesn't matter what the
    transaction locks before or after this call.
    """
    raised: set[str] | None = session.info.get(_RAISED)
    if raised is None:
        raised = session.info[_RAISED] = set()
    if not raised:
        before_charges(session, _write)
    raised.add(scope)


def raise_generations(session: Session, namespaces: Iterable[str]) -> None:
    """Note a change in these namespaces ("-": names without one; "*": all)."""
    for namespace in namespaces:
        raise_generation(session, scope_of_namespace(namespace))


def _write(session: Session) -> None:
    """Raise what this transaction has gathered, in the order in which moves hold it."""
    raised: set[str] = session.info[_RAISED]
    for scope in sorted(raised, key=_place):
        append_new(session, Generation, {"scope": scope, "number": 0})
        connection_of(session).execute(_RAISE, {"raised": scope})
    raised.clear()


def _place(scope: str) -> tuple[int, str]:
    return (0 if scope == EVERYWHERE else 1 if scope.endswith("/*") else 2), scope
