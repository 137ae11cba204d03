"""Which approvals of some bytes count, and why others don't: the holder must still have the role, and not judge own work.

>>> rule = ApprovalCount(policies_digest="p", makers=Makers(), people={}, namespace="team", now_s=100.0)
>>> given = GivenApproval("1", "approve", "token:a", "a", "ana", policies_digest="before", created_at_s=0.0)
>>> rule.void(given)
'a policy was changed since'
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf
from typing import NamedTuple

from sqlalchemy import ColumnElement, and_, select
from sqlalchemy.orm import Session

from registry.access.models import Grant, Token, in_use
from registry.principal import EVERYWHERE, Principal, roles_of
from registry.promotion.makers import Makers
from registry.promotion.models import Approval
from sdk.formats.visible_labels import same_label
from sdk.schemas.policies import seconds_of

#: More are not read for one decision; only who has as many tokens can give them.
MOST_READ = 2000
#: How many are named in a sentence.
MOST_NAMED = 5
_OLDEST_FIRST = (Approval.created_at_s, Approval.id)
_NEWEST_FIRST = (Approval.created_at_s.desc(), Approval.id)
#: Times are stored to the microsecond; at the moment at which a token expires, it is not in use any more.
_TICK_S = 1e-6
#: What may be promoted, and by whom approved.
ACTION = "promote"


class GivenApproval(NamedTuple):
    """An approval, or a veto, that nobody has withdrawn."""

    id: str
    kind: str
    owner: str
    token_id: str | None
    name: str
    policies_digest: str
    created_at_s: float
    reason: str = ""


class TokenInUse(NamedTuple):
    """What a token in use allows in a namespace."""

    #: Whether its holder has the role there.
    may: bool
    #: The last moment at which it is in use, by the database's clock.
    until_s: float = inf


@dataclass(frozen=True)
class ApprovalCount:
    """What approvals are counted by."""

    #: Digest over all policies that stand for the alias.
    policies_digest: str
    makers: Makers
    #: Of tokens in use alone, by their ids.
    people: Mapping[str, TokenInUse]
    namespace: str
    #: The database's clock.
    now_s: float
    #: As `PolicyDocument.approval_age`.
    age: str | None = None
    #: Who moves the alias, if anybody does.
    mover: Principal | None = None

    def void(self, given: GivenApproval) -> str | None:
        """Return why an approval doesn't count, as the rest of a sentence; None: it does."""
        mover = self.mover
        if given.policies_digest != self.policies_digest:
            return "a policy was changed since"
        if self.age is not None and self.now_s - given.created_at_s > seconds_of(self.age):
            return f"it is older than {self.age}"
        if given.token_id is None or given.token_id not in self.people:
            return "its token is no longer in use"
        if not self.people[given.token_id].may:
            return f"its token no longer has a role in {self.namespace!r} that may approve"
        if self.makers.include(given.owner, given.name):
            return "who trained or pushed a version doesn't approve it"
        if mover is not None and (given.owner == mover.owner or same_label(given.name) == same_label(mover.name)):
            return "who moves an alias doesn't approve it"
        return None

    def until_s(self, given: GivenApproval) -> float:
        """Return the last moment at which an approval that counts does so, unless something else than time ends it."""
        ends = inf if self.age is None else given.created_at_s + seconds_of(self.age)
        return min(ends, self.people[given.token_id or ""].until_s)

    def counted(self, approvals: Sequence[GivenApproval]) -> Iterator[tuple[GivenApproval, str | None]]:
        """Yield each approval with why it doesn't count: two by tokens with the same name are one person's."""
        people: set[str] = set()
        for given in approvals:
            void = self.void(given)
            if void is None and same_label(given.name) in people:
                void = "somebody of the same name has approved it, too"
            if void is None:
                people.add(same_label(given.name))
            yield given, void


def approvals_of(
    session: Session, adapter_pk: int, alias: str, digest: str, policies_digest: str
) -> list[GivenApproval]:
    """Return the approvals of some bytes for an alias that may count under these policies, oldest first."""
    # Those under earlier policies never count again, and there may be any number of them.
    mine = select(Approval).where(*_standing(adapter_pk, alias, digest, "approve"))
    newest = mine.where(Approval.policies_digest == policies_digest).order_by(*_NEWEST_FIRST).limit(MOST_READ)
    return [as_given(row) for row in reversed(session.scalars(newest).all())]


def vetoes_of(session: Session, adapter_pk: int, alias: str, digest: str) -> list[GivenApproval]:
    """Return the first vetoes of some bytes for an alias: one is enough, whatever became of its token or the policies."""
    mine = select(Approval).where(*_standing(adapter_pk, alias, digest, "disapprove"))
    return [as_given(row) for row in session.scalars(mine.order_by(*_OLDEST_FIRST).limit(MOST_NAMED))]


def _standing(adapter_pk: int, alias: str, digest: str, kind: str) -> tuple[ColumnElement[bool], ...]:
    of = (Approval.adapter_pk == adapter_pk, Approval.alias == alias, Approval.digest == digest)
    return *of, Approval.kind == kind, Approval.withdrawn_at.is_(None)


def as_given(row: Approval) -> GivenApproval:
    """Return what an approval is counted by."""
    return GivenApproval(
        id=row.id,
        kind=row.kind,
        owner=row.owner,
        token_id=row.token_id,
        name=row.created_by,
        policies_digest=row.policies_digest,
        created_at_s=row.created_at_s,
        reason=row.reason,
    )


def people_of(
    session: Session, tokens: Iterable[str | None], namespace: str, now_s: float, action: str = ACTION
) -> dict[str, TokenInUse]:
    """Return which of some tokens are in use now, by the database's clock, and whether they may do this in a namespace."""
    ids = {ident for ident in tokens if ident is not None}
    # The roles are compared as they are stored: of one that only a newer release knows, this one says that it may not.
    there = and_(Grant.namespace.in_((namespace, EVERYWHERE)), Grant.role.in_(roles_of(action)))
    role = select(Grant.token_id).where(Grant.token_id == Token.id, there).exists()
    used = in_use(datetime.fromtimestamp(now_s, UTC))
    rows = session.execute(select(Token.id, role, Token.expires_at).where(Token.id.in_(ids), used))
    return {
        ident: TokenInUse(bool(may), inf if ends is None else ends.timestamp() - _TICK_S) for ident, may, ends in rows
    }
