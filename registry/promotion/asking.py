"""What a move is judged by, read in one transaction: the question, the inputs of its rules, and the answer if it was given
before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.catalog.aliases.moving import named_now, require_movable, require_named, require_there, undone_to
from registry.catalog.models import Adapter, AliasMoveRow, Version
from registry.catalog.versions.finding import find_adapter, find_version
from registry.db.types import db_epoch_s, db_now
from registry.errors import Invalid
from registry.principal import Principal
from registry.promotion import generations
from registry.promotion.counted_approvals import vetoes_of
from registry.promotion.models import DecisionRow
from registry.promotion.policies.finding import policies_digest, require_seen, standing
from registry.promotion.policies.loosening import recent_loosenings
from registry.promotion.question import Gathered, Question, RuleFamily, StandingPolicy
from registry.promotion.rules.known import OF_REMOVAL
from sdk.formats.refs import Ref
from sdk.schemas.decisions import MoveKind
from sdk.schemas.wire import digest_of
from sdk.version import VERSION


@dataclass(frozen=True)
class Wanted:
    """A move of an alias that somebody wants, or asks about."""

    adapter: str
    alias: str
    kind: MoveKind
    who: Principal
    #: What it should name, of a set.
    number: int | None = None
    #: What it must name now (0: nothing; None: whatever it names).
    expect: int | None = None
    reason: str = ""
    override: bool = False
    #: The digest over the policies that the caller has seen to stand; None: whichever do.
    policies: str | None = None
    #: Whether it is only asked whether it would move.
    only_asked: bool = False


@dataclass(frozen=True)
class AskedRules:
    """The rules of one kind of one policy."""

    policy: StandingPolicy
    gathered: Gathered
    #: The same as long as it is judged by the same.
    key: str


@dataclass(frozen=True)
class AskedMove:
    """A question with all that it is judged by, as one state of the database has it."""

    question: Question
    parts: Sequence[AskedRules]
    #: Whether it goes back to what it has named by a decision, and no policy wants that checked.
    goes_back: bool
    #: SHA-256 over the identities of all inputs.
    inputs_digest: str
    scopes: Sequence[str]
    generations: Sequence[int]
    #: Until when time alone changes nothing of it, by the database's clock in seconds since 1970.
    until_s: float
    #: The key of the alias's last move; None: there was none.
    last_move: int | None
    #: What readers of the decision should know.
    notes: Sequence[str]


def ask(
    session: Session, wanted: Wanted, families: Mapping[str, RuleFamily], *, most_scores: int | None = None
) -> AskedMove:
    """Read what a wanted move is judged by. Raises NotFound, Forbidden, Invalid for an override without a reason, Conflict,
    Unreadable; JudgingNeededError if there are more scores than `most_scores`.
    """
    who = wanted.who
    adapter = find_adapter(session, wanted.adapter, who, action="write")
    require_rights(session, adapter, wanted)
    scopes = generations.scopes_of(adapter.name, adapter.namespace)
    present = named_now(session, adapter, wanted.alias)
    target = target_of(session, adapter, wanted)
    if target is None:
        present = require_there(adapter, wanted.alias, present)
    require_named(adapter, wanted.alias, wanted.expect, present)
    policies = standing(session, adapter.name, adapter.namespace, wanted.alias)
    require_seen(policies, wanted.policies, f"{adapter.name}@{wanted.alias}")
    question = Question(
        adapter_pk=adapter.pk,
        adapter=adapter.name,
        namespace=adapter.namespace,
        alias=wanted.alias,
        kind=wanted.kind,
        version_pk=None if target is None else target.pk,
        number=None if target is None else target.number,
        digest=None if target is None else target.digest,
        base_fingerprint=None if target is None else target.base.fingerprint,
        from_version_pk=None if present is None else present.pk,
        from_number=None if present is None else present.number,
        from_digest=None if present is None else present.digest,
        who=who,
        now_s=session.scalar(select(db_epoch_s())) or 0.0,
        policies=policies,
        policies_digest=policies_digest(policies),
        most_scores=most_scores,
    )
    goes_back = target is not None and _goes_back(session, question)
    parts = [] if goes_back else [*_gathered(session, question, families)]
    return AskedMove(
        question=question,
        parts=parts,
        goes_back=goes_back,
        inputs_digest=digest_of([_identity(question), [part.key for part in parts]]),
        scopes=scopes,
        generations=generations.read(session, scopes),
        until_s=min((part.gathered.until_s for part in parts), default=inf),
        last_move=last_move(session, adapter, wanted.alias),
        notes=recent_loosenings(session, adapter.name, adapter.namespace, wanted.alias, db_now(session)),
    )


def require_rights(session: Session, adapter: Adapter, wanted: Wanted) -> None:
    """Raise Forbidden unless the caller may move this alias, or ask about it; Invalid for an override without a reason."""
    require_movable(session, adapter, wanted.alias, wanted.who)
    if wanted.only_asked:
        wanted.who.require("promote", adapter.namespace)
    if wanted.override:
        wanted.who.require("admin", adapter.namespace)
        if not wanted.reason.strip():
            raise Invalid("an override stays in the history with its reason; give one with: --reason", param="reason")


def target_of(session: Session, adapter: Adapter, wanted: Wanted) -> Version | None:
    """Return the version that an alias is to name; None: nothing. Raises NotFound, Conflict."""
    if wanted.kind == "remove":
        return None
    if wanted.kind == "rollback":
        return undone_to(session, adapter, wanted.alias)
    return find_version(session, Ref(adapter.name, f"v{wanted.number}"), wanted.who)


def last_move(session: Session, adapter: Adapter, alias: str) -> int | None:
    """Return the key of the last move of an alias."""
    query = select(func.max(AliasMoveRow.pk))
    return session.scalar(query.where(AliasMoveRow.adapter_pk == adapter.pk, AliasMoveRow.alias == alias))


def answered_before(session: Session, asked: AskedMove) -> DecisionRow | None:
    """Return the newest decision that was made by the same inputs and has the outcome of each rule."""
    query = select(DecisionRow).where(
        DecisionRow.inputs_digest == asked.inputs_digest,
        DecisionRow.adapter_pk == asked.question.adapter_pk,
        DecisionRow.outcome.in_(("passed", "refused")),
    )
    return session.scalars(query.order_by(DecisionRow.pk.desc()).limit(1)).first()


def _goes_back(session: Session, question: Question) -> bool:
    """Whether a rollback leads to what the alias has named by a decision under a policy, no policy wants it checked, and nobody
    has disapproved it.
    """
    if question.kind != "rollback" or not question.policies:
        return False
    if any(policy.document.rollback == "checked" for policy in question.policies):
        return False
    # A veto is newer than what was decided: whoever gave it has seen what the rules did not.
    if vetoes_of(session, question.adapter_pk, question.alias, question.digest or ""):
        return False
    query = select(DecisionRow.pk).where(
        DecisionRow.adapter_pk == question.adapter_pk,
        DecisionRow.alias == question.alias,
        DecisionRow.digest == question.digest,
        DecisionRow.moved,
        DecisionRow.outcome.in_(("passed", "overridden", "rolled_back")),
        # Where no policy stood, nothing was decided.
        func.json_array_length(DecisionRow.policies) > 0,
    )
    return session.scalars(query.limit(1)).first() is not None


def _gathered(session: Session, question: Question, families: Mapping[str, RuleFamily]) -> list[AskedRules]:
    parts = []
    for policy in question.policies:
        for name, family in families.items():
            if question.kind == "remove" and name not in OF_REMOVAL:
                continue
            gathered = family(session, question, policy)
            if gathered is not None:
                of = [name, policy.scope, policy.version, policy.digest]
                parts.append(AskedRules(policy, gathered, digest_of([_identity(question), of, gathered.identity])))
    return parts


def _identity(question: Question) -> dict[str, Any]:
    """What every rule may be judged by; the release too, because another one may judge otherwise."""
    return {
        "release": VERSION,
        "adapter": question.adapter_pk,
        "alias": question.alias,
        "kind": question.kind,
        "number": question.number,
        "digest": question.digest,
        "from": [question.from_number, question.from_digest],
        # Approvals of whoever moves don't count.
        "by": question.who.owner,
        "policies": question.policies_digest,
    }
