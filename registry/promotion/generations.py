"""Generations: numbers that rise with each change of what decisions are made by, of the registry, a namespace, an adapter.

A verdict is computed outside of any transaction. The one that moves the alias holds these numbers: as long as they are
the same as when the inputs were read, so are the inputs, and whoever changes one waits until the alias has moved.

>>> scopes_of("team/code-review", "team")
('*', 'team/*', 'team/code-review')
>>> scopes_of("code-review", "-")
('*', '-/*', 'code-review')
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from registry.db.statements import append_new, connection_of
from registry.principal import EVERYWHERE
from registry.promotion.models import Generation


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

    This comes before any other lock. Transactions of different adapters hold the wide scopes at the same time; the last
    one, the adapter's own, is held alone, so that it may be raised by the transaction that holds it.
    """
    append_new(session, Generation, *({"scope": scope, "number": 0} for scope in scopes))
    numbers = []
    for scope in scopes:
        # One by one: the order in which a single statement locks its rows is the planner's.
        row = select(Generation.number).where(Generation.scope == scope).with_for_update(read=scope != scopes[-1])
        numbers.append(connection_of(session).execute(row).scalar_one())
    return tuple(numbers)


def raise_generation(session: Session, scope: str) -> None:
    """Note that something changed by which decisions about adapters of a scope are made.

    It waits for moves that hold the scope. Call it before the row of an adapter is locked, as moves do, or else the two
    could wait for each other.
    """
    append_new(session, Generation, {"scope": scope, "number": 0})
    connection_of(session).execute(
        update(Generation).where(Generation.scope == scope).values(number=Generation.number + 1)
    )


def raise_generations(session: Session, namespaces: Iterable[str]) -> None:
    """Note a change in these namespaces ("-": names without one; "*": all), in the order in which moves hold them."""
    for scope in sorted({scope_of_namespace(namespace) for namespace in namespaces}, key=lambda one: (one != "*", one)):
        raise_generation(session, scope)
