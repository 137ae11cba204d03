"""The one gate through which aliases move: set, back, and removed.

1. One state of the database is read: what the alias names, the policies that stand, and what their rules are judged by.
2. The rules are judged outside of any transaction; by the same inputs, an earlier decision has the answer.
3. A short transaction locks the adapter's row and holds its generations. If these are as they were read, so are the inputs,
   as far as time alone has ended none of them, and the alias moves. Else all is read again, and judged again if an input differs.

Locks are taken in the order that `registry.promotion.generations` has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Any, TypeVar

from sqlalchemy.orm import Session

from registry.access.audit.service import record
from registry.access.tokens import with_present_roles
from registry.catalog.aliases.moving import MovedBy, point, remove
from registry.catalog.models import Adapter
from registry.catalog.versions.finding import find_adapter
from registry.db.database import Database
from registry.db.types import db_now
from registry.errors import Conflict, PromotionRefused, Unavailable
from registry.principal import Principal
from registry.promotion import generations
from registry.promotion.asking import AskedMove, Wanted, answered_before, ask, last_move, require_rights, target_of
from registry.promotion.decisions import (
    MoveVerdict,
    new_id,
    present_decisions,
    refusal_of,
    stored_rules,
    write_decision,
)
from registry.promotion.models import DecisionRow
from registry.promotion.question import Bench, JudgingNeededError, RuleFamily
from registry.promotion.rules.known import FAMILIES
from registry.promotion.rules.read_outcomes import ReadOutcomes
from sdk.schemas.aliases import AliasMove, AliasRemoval, AliasRollback, AliasView
from sdk.schemas.decisions import Decision, DecisionOutcome, MoveKind, PromotionCheck

T = TypeVar("T")

#: How often inputs may change while they are judged, and how often they are read again in all.
MOST_CHANGES, MOST_LOOKS = 3, 20
#: How many records of scores are read of a dataset while others wait.
_MOST_SCORES = 500
#: How many evaluations a decision names that would make its rules known.
_MOST_MISSING = 100


def unchanged(asked: AskedMove, held: Sequence[int], last: int | None) -> bool:
    """Whether all that a move was judged by is as it was read, by the generations that are held now and the alias's last move."""
    return list(held) == list(asked.generations) and last == asked.last_move


class Gate:
    """The service that moves aliases and decides about moves."""

    def __init__(
        self,
        db: Database,
        bench: Bench,
        *,
        families: Mapping[str, RuleFamily] = FAMILIES,
        unchanged: Callable[[AskedMove, Sequence[int], int | None], bool] = unchanged,
    ) -> None:
        self._db = db
        self._bench = bench
        self._families = families
        self._unchanged = unchanged

    def move(
        self, *, move: AliasMove, who: Principal, may_judge: bool = True, policies: str | None = None
    ) -> AliasView:
        """Point an alias at a version, if it names `expect` now (0: nothing) and all rules of its policies pass; of `policies`, by
        the digest of what the caller has seen to stand.

        Unless it `may_judge`, it raises JudgingNeededError where that isn't known from before. Raises NotFound; Forbidden if the
        alias is protected and the caller is not a promoter, or for an override not an admin; PromotionRefused if a rule does not
        pass, Conflict if it names another version, or if the inputs of its rules change all the time; Unavailable.
        """
        return self._moved(_wanted(move, "set", who, number=move.number, policies=policies), may_judge, _point)

    def rollback(
        self, *, rollback: AliasRollback, who: Principal, may_judge: bool = True, policies: str | None = None
    ) -> AliasView:
        """Point an alias at the version that it named before its last move, if it names `expect` now (0: nothing).

        What it has named by a decision needs no new one, unless a policy wants that checked, or somebody has disapproved it. Raises what `move` does, NotFound for
        an alias that never existed, Conflict if it named none before, or that one is gone.
        """
        return self._moved(_wanted(rollback, "rollback", who, policies=policies), may_judge, _point)

    def remove(self, *, removal: AliasRemoval, who: Principal, may_judge: bool = True) -> None:
        """Remove an alias; its history stays. Where policies ask for approvals, so does this. Raises what `move` does."""
        self._moved(_wanted(removal, "remove", who), may_judge, _remove)

    def check(self, *, check: PromotionCheck, who: Principal, may_judge: bool = True) -> Decision:
        """Decide whether an alias would move to a version; nothing moves. By the same inputs, it is the same decision.

        Raises NotFound, Forbidden unless the caller is a promoter, Conflict if the alias names another version than `expect`,
        JudgingNeededError, Unavailable.
        """
        wanted = Wanted(
            adapter=check.adapter,
            alias=check.alias,
            kind="set",
            who=who,
            number=check.number,
            expect=check.expect,
            only_asked=True,
        )
        asked, earlier = self._ask(wanted, may_judge)
        return self._told(wanted, asked, self._judged(wanted, asked, earlier, may_judge, {}), earlier)

    # One move.

    def _moved(
        self, wanted: Wanted, may_judge: bool, change: Callable[[Session, Adapter, Wanted, MovedBy], tuple[int, T]]
    ) -> T:
        judged: dict[str, list[Any]] = {}
        changes, inputs = 0, None
        for _ in range(MOST_LOOKS):
            asked, earlier = self._ask(wanted, may_judge)
            changes += inputs not in (None, asked.inputs_digest)
            if changes == MOST_CHANGES:
                break
            inputs = asked.inputs_digest
            verdict = self._judged(wanted, asked, earlier, may_judge, judged)
            if verdict.outcome == "refused":
                raise PromotionRefused(refusal_of(self._told(wanted, asked, verdict, earlier)), param="alias")
            done = self._settled(wanted, asked, verdict, change)
            if done is not None:
                return done[0]
        raise Conflict(
            f"what the policies of {wanted.adapter}@{wanted.alias} are judged by changes faster than it can be judged; run the "
            "same command again"
        )

    def _ask(self, wanted: Wanted, may_judge: bool) -> tuple[AskedMove, DecisionRow | None]:
        with self._db.read() as session:
            asked = ask(session, wanted, self._families, most_scores=None if may_judge else _MOST_SCORES)
            return asked, answered_before(session, asked) if asked.parts or wanted.only_asked else None

    def _judged(
        self,
        wanted: Wanted,
        asked: AskedMove,
        earlier: DecisionRow | None,
        may_judge: bool,
        judged: dict[str, list[Any]],
    ) -> MoveVerdict:
        """Return what a question comes to. `judged` has the outcomes of rules by the keys of their inputs, and gets new ones."""
        if asked.goes_back:
            return MoveVerdict("rolled_back", notes=asked.notes)
        if earlier is not None:
            rules, missing, notes = list(earlier.rules), list(earlier.missing), list(asked.notes)
        elif may_judge or all(isinstance(part.gathered, ReadOutcomes) for part in asked.parts):
            rules, missing, notes = self._judge(wanted, asked, judged)
        else:
            raise JudgingNeededError
        passed = len(notes) == len(asked.notes) and all(one["outcome"] == "passed" for one in rules)
        outcome: DecisionOutcome = "passed" if passed else "overridden" if wanted.override else "refused"
        return MoveVerdict(outcome, rules, missing, notes)

    def _judge(
        self, wanted: Wanted, asked: AskedMove, judged: dict[str, list[Any]]
    ) -> tuple[list[Any], list[Any], list[str]]:
        rules, missing, notes = [], [], [*asked.notes]
        for part in asked.parts:
            try:
                if part.key not in judged:
                    judged[part.key] = stored_rules(part.gathered.judge(self._bench))
            except Unavailable:
                # An override is for emergencies, and this may be one.
                if not wanted.override:
                    raise
                notes.append(f"rules of {part.policy.scope} were not judged: what they ask could not be read then")
                continue
            rules += judged[part.key]
            if any(one["outcome"] == "unknown" for one in judged[part.key]):
                missing += [request.model_dump(mode="json") for request in part.gathered.missing]
        return rules, missing[:_MOST_MISSING], notes

    def _told(self, wanted: Wanted, asked: AskedMove, verdict: MoveVerdict, earlier: DecisionRow | None) -> Decision:
        """Return a decision after which nothing moves, as the caller may see it: the earlier one if it was the same."""
        name, who = wanted.adapter, wanted.who
        same = earlier is not None and not earlier.moved and earlier.outcome == verdict.outcome
        if earlier is not None and same and (wanted.only_asked or earlier.reason == wanted.reason):
            with self._db.read() as session:
                return present_decisions(session, name, [earlier], who)[0]
        with self._db.write() as session:
            row = write_decision(session, asked, verdict, ident=new_id(), reason=wanted.reason, who=who)
            return present_decisions(session, name, [row], who)[0]

    def _settled(
        self,
        wanted: Wanted,
        asked: AskedMove,
        verdict: MoveVerdict,
        change: Callable[[Session, Adapter, Wanted, MovedBy], tuple[int, T]],
    ) -> tuple[T] | None:
        """Move the alias, and return the answer, unless anything has changed by which it was judged."""
        with self._db.write() as session:
            adapter = find_adapter(session, wanted.adapter, wanted.who, action="write", lock=True)
            held = generations.hold(session, asked.scopes)
            if not self._unchanged(asked, held, last_move(session, adapter, wanted.alias)):
                return None
            # Nobody raises a generation for what ends by itself, such as the age of an approval.
            if asked.until_s < inf and db_now(session).timestamp() > asked.until_s:
                return None
            who = wanted.who
            if asked.question.policies:
                # It may have been judged for minutes, and the caller's token revoked.
                who = with_present_roles(session, who)
            require_rights(session, adapter, replace(wanted, who=who))
            if wanted.kind == "set" and asked.question.version_pk == asked.question.from_version_pk:
                # It is there already: nothing moves by this, so there is nothing to remember.
                return (change(session, adapter, wanted, MovedBy(who, wanted.reason))[1],)
            decided = bool(asked.question.policies or asked.notes)
            ident, outcome = (new_id(), verdict.outcome) if decided else (None, None)
            move, answer = change(session, adapter, wanted, MovedBy(who, wanted.reason, ident, outcome))
            if ident is not None:
                write_decision(session, asked, verdict, ident=ident, reason=wanted.reason, who=who, move=move)
            if verdict.outcome == "overridden":
                subject = f"{adapter.name}@{wanted.alias}"
                after = {"number": asked.question.number, "decision": ident, "reason": wanted.reason}
                before = {"number": asked.question.from_number}
                record(session, who, "alias.override", adapter.namespace, subject, before=before, after=after)
            return (answer,)


def _wanted(
    body: AliasMove | AliasRollback | AliasRemoval,
    kind: MoveKind,
    who: Principal,
    number: int | None = None,
    policies: str | None = None,
) -> Wanted:
    return Wanted(
        adapter=body.adapter,
        alias=body.alias,
        kind=kind,
        who=who,
        number=number,
        expect=body.expect,
        reason=body.reason,
        override=body.override,
        policies=policies,
    )


def _point(session: Session, adapter: Adapter, wanted: Wanted, by: MovedBy) -> tuple[int, AliasView]:
    version = target_of(session, adapter, wanted)
    if version is None:
        raise ValueError("a removal names no version")
    view = point(session, adapter, wanted.alias, version, expect=wanted.expect, kind=wanted.kind, by=by)
    return view.move, view


def _remove(session: Session, adapter: Adapter, wanted: Wanted, by: MovedBy) -> tuple[int, None]:
    return remove(session, adapter, wanted.alias, expect=wanted.expect, by=by), None
