"""Which versions are to be looked at by the registry itself: those that became ready since a policy asks for it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import ColumnElement, func, or_, select, true, tuple_
from sqlalchemy.orm import Session

from registry.catalog.models import Adapter, AliasMoveRow, Version
from registry.catalog.versions.lifecycle import VersionState
from registry.principal import EVERYWHERE
from registry.promotion import generations
from registry.promotion.automatic.lifecycle import OPEN, AutomaticState
from registry.promotion.models import AutomaticRow, Policy
from registry.promotion.policies.finding import policies_digest, standing
from registry.promotion.question import StandingPolicy

_NEWEST = select(Policy.scope, Policy.alias, func.max(Policy.version)).group_by(Policy.scope, Policy.alias)


class Asking(NamedTuple):
    """A policy that asks the registry to do something by itself, and since when it has done so."""

    scope: str
    alias: str
    since: datetime


class Candidate(NamedTuple):
    """A version that is newer than all that an alias has named."""

    adapter_pk: int
    adapter: str
    namespace: str
    alias: str
    version_pk: int
    number: int
    digest: str

    @property
    def ref(self) -> str:
        """What it is called."""
        return f"{self.adapter}@v{self.number}"


@dataclass(frozen=True)
class Sight:
    """A version together with what decides what is done about it, as of one moment."""

    candidate: Candidate
    policies: Sequence[StandingPolicy]
    policies_digest: str
    generations: tuple[int, ...]
    row: AutomaticRow | None

    @property
    def scored_rows(self) -> set[str]:
        """The datasets on which it is to be scored by the registry itself."""
        asking = (policy.document for policy in self.policies if policy.document.evaluate is not None)
        return {rule.data for document in asking for rule in document.require}

    @property
    def moves(self) -> bool:
        """Whether the alias is to be moved by the registry itself."""
        return any(policy.document.promote is not None for policy in self.policies)

    @property
    def is_over(self) -> bool:
        """Whether all was done that is done for these policies, once."""
        return self.row is not None and self.row.state not in OPEN

    @property
    def is_new(self) -> bool:
        """Whether something that decides has changed since it was last looked at."""
        return self.row is None or tuple(self.row.generations) != self.generations


class AskingPolicies:
    """The policies that ask for anything by themselves. Versions of policies are only appended to, so each is read once.

    Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: Scope and alias → the newest version of the policy, and since when it has asked; None: it doesn't.
        self._known: dict[tuple[str, str], tuple[int, datetime | None]] = {}

    def now(self, session: Session) -> list[Asking]:
        """Return those that ask now, by scope and alias."""
        of = (Policy.scope, Policy.alias)
        # The index has all of this, so that no document is read.
        there = {(scope, alias): last for scope, alias, last in session.execute(_NEWEST)}
        with self._lock:
            for key, last in there.items():
                known, since = self._known.get(key, (0, None))
                if last > known:
                    later = select(Policy.created_at, _asks(Policy)).where(tuple_(*of) == key, Policy.version > known)
                    for created_at, asks in session.execute(later.order_by(Policy.version)):
                        since = (since or created_at) if asks else None
                    self._known[key] = last, since
            return [Asking(*key, since) for key in sorted(there) if (since := self._known[key][1]) is not None]


def candidates(
    session: Session, asked: Asking, *, most: int, below: int | None = None, of: int | None = None
) -> list[Candidate]:
    """Return the last versions that a policy is to be applied to, newest first: those with a key below `below`, or only the
    version with the key `of`.

    What an alias has named, or what is older, is not gone back to.
    """
    named = (
        select(func.max(AliasMoveRow.to_number))
        .where(AliasMoveRow.adapter_pk == Adapter.pk, AliasMoveRow.alias == asked.alias)
        .correlate(Adapter)
        .scalar_subquery()
    )
    query = (
        select(Adapter.pk, Adapter.name, Adapter.namespace, Version.pk, Version.number, Version.digest)
        .join(Adapter, Adapter.pk == Version.adapter_pk)
        .where(
            Version.state == VersionState.READY,
            Version.moved_at >= asked.since,
            Version.number > func.coalesce(named, 0),
            _within(asked.scope),
        )
        .order_by(Version.pk.desc())
        .limit(most)
    )
    if below is not None:
        query = query.where(Version.pk < below)
    if of is not None:
        query = query.where(Version.pk == of)
    return [
        Candidate(adapter_pk, adapter, namespace, asked.alias, version_pk, number or 0, digest)
        for adapter_pk, adapter, namespace, version_pk, number, digest in session.execute(query)
    ]


def unsettled(session: Session, page: Sequence[Candidate]) -> list[Candidate]:
    """Return those of the versions for one alias about which not everything is done for the policies that stand now."""
    stands = {one.adapter: one for one in page}
    digests = {name: policies_digest(standing(session, name, one.namespace, one.alias)) for name, one in stands.items()}
    rows = select(AutomaticRow.adapter_pk, AutomaticRow.digest, AutomaticRow.policies_digest).where(
        AutomaticRow.alias.in_({one.alias for one in page}),
        AutomaticRow.digest.in_({one.digest for one in page}),
        AutomaticRow.state.not_in([state.value for state in OPEN]),
    )
    over = {tuple(row) for row in session.execute(rows)}
    return [one for one in page if (one.adapter_pk, one.digest, digests[one.adapter]) not in over]


def look_at(session: Session, candidate: Candidate) -> Sight:
    """Return what decides what is done about a version now. Raises Unreadable for a policy that can't be read."""
    policies = standing(session, candidate.adapter, candidate.namespace, candidate.alias)
    digest = policies_digest(policies)
    scopes = generations.scopes_of(candidate.adapter, candidate.namespace)
    key = (candidate.adapter_pk, candidate.alias, candidate.digest, digest)
    row = session.get(AutomaticRow, key, populate_existing=True)
    return Sight(candidate, policies, digest, generations.read(session, scopes), row)


def left_behind(session: Session, *, most: int) -> list[AutomaticRow]:
    """Return rows of something that may still happen, those that were looked at longest ago first."""
    states = [state.value for state in OPEN]
    query = select(AutomaticRow).where(AutomaticRow.state.in_(states)).order_by(AutomaticRow.at).limit(most)
    return list(session.scalars(query))


def end_of(session: Session, row: AutomaticRow, *, mover: str) -> AutomaticState | None:
    """Return what a row has come to that nothing will be done about any more; None: something may be done."""
    adapter = session.get_one(Adapter, row.adapter_pk)
    moves = select(AliasMoveRow).where(AliasMoveRow.adapter_pk == row.adapter_pk, AliasMoveRow.alias == row.alias)
    by_itself = moves.where(AliasMoveRow.to_number == row.number, AliasMoveRow.moved_by == mover).limit(1)
    if session.scalars(by_itself).first() is not None:
        # Whoever moved it was killed before the row said so.
        return AutomaticState.MOVED
    if policies_digest(standing(session, adapter.name, adapter.namespace, row.alias)) != row.policies_digest:
        return AutomaticState.OVERTAKEN
    if session.scalars(moves.where(AliasMoveRow.to_number >= row.number).limit(1)).first() is not None:
        return AutomaticState.OVERTAKEN
    ready = select(Version.pk).where(
        Version.adapter_pk == row.adapter_pk, Version.number == row.number, Version.state == VersionState.READY
    )
    return None if session.scalars(ready).first() is not None else AutomaticState.OVERTAKEN


def _asks(policy: type[Policy]) -> ColumnElement[bool]:
    """Whether a version of a policy asks for anything; one that ends it has no document, and doesn't."""
    return or_(*(policy.document[name].as_string().is_not(None) for name in ("evaluate", "promote")))


def _within(scope: str) -> ColumnElement[bool]:
    if scope == EVERYWHERE:
        return true()
    namespace, _, rest = scope.rpartition("/")
    return Adapter.namespace == namespace if rest == "*" else Adapter.name == scope
