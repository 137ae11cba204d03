"""Which policies stand for an alias of an adapter: the newest version of each scope that applies, unless it was removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

from pydantic import ValidationError
from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session, aliased

from registry.db.database import once
from registry.errors import Conflict, Unreadable
from registry.promotion.generations import scopes_of
from registry.promotion.models import Policy
from registry.promotion.question import StandingPolicy
from sdk.schemas.policies import PolicyDocument
from sdk.schemas.wire import digest_of


def standing(session: Session, adapter: str, namespace: str, alias: str) -> list[StandingPolicy]:
    """Return the policies that must all hold before an alias moves: of `*`, of the namespace, of the adapter, in this order.

    Raises Unreadable for one that this release doesn't understand.
    """
    scopes = scopes_of(adapter, namespace)
    rows = session.scalars(newest().where(Policy.scope.in_(scopes), Policy.alias == alias))
    there = {row.scope: row for row in rows if row.document is not None}
    return [standing_policy(there[scope]) for scope in scopes if scope in there]


class Named(Protocol):
    """A version of a policy, or what a decision says of it."""

    @property
    def scope(self) -> str: ...

    @property
    def version(self) -> int: ...

    @property
    def digest(self) -> str: ...


def policies_digest(policies: Sequence[Named]) -> str:
    """Return a digest that differs whenever another version of any policy stands; also one with the same document."""
    return digest_of([[policy.scope, policy.version, policy.digest] for policy in policies])


def require_seen(policies: Sequence[Named], seen: str | None, named: str) -> None:
    """Raise Conflict unless these are the policies of an alias that somebody has `seen`, by their digest; None: any."""
    if seen not in (None, policies_digest(policies)):
        raise Conflict(
            f"the policies of {named} have changed since they were shown; look at them again: adapterctl policy show "
            f"{named.partition('@')[0]}",
            param="alias",
        )


def protected_aliases(session: Session, adapter: str, namespace: str) -> set[str]:
    """Return the aliases of an adapter that have a policy: only promoters move them."""
    # A removal is a row, too: without a document.
    there = newest().where(Policy.scope.in_(scopes_of(adapter, namespace)), Policy.document.is_not(None))
    names = there.with_only_columns(Policy.alias)
    return once(session, ("aliases with policies", adapter, namespace), lambda: set(session.scalars(names)))


def newest() -> Select[Policy]:
    """The newest version of each policy, also of those that were removed."""
    later = aliased(Policy)
    last = select(func.max(later.version)).where(later.scope == Policy.scope, later.alias == Policy.alias)
    return select(Policy).where(Policy.version == last.scalar_subquery())


def standing_policy(row: Policy) -> StandingPolicy:
    """Return a stored policy that was not removed, in order to act on it. Raises Unreadable."""
    return StandingPolicy(row.scope, row.version, row.digest, document_of(row))


def document_of(row: Policy) -> PolicyDocument:
    """Return the document of a policy that was not removed. Raises Unreadable.

    Other stored records are read without what only a newer release knows. Here that would be a rule which nobody checks.
    """
    try:
        return _document(_Stored(row.digest, row.document))
    except ValidationError as error:
        raise Unreadable(
            f"the policy of {row.scope} for {row.alias} has rules that this release doesn't know; upgrade the registry, or set "
            f"the policy again: adapterctl policy set {row.scope} FILE"
        ) from error


@dataclass(frozen=True)
class _Stored:
    digest: str
    document: Any = field(compare=False)


@lru_cache(maxsize=64)
def _document(stored: _Stored) -> PolicyDocument:
    """A policy is read with each question about its alias, and reading one with many rules takes milliseconds."""
    return PolicyDocument.model_validate(stored.document)
