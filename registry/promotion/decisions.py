"""Decisions: written when an alias was to move, and shown to readers of its adapter, each as far as they may know it."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.catalog.models import Adapter
from registry.catalog.versions.finding import find_adapter
from registry.datasets.finding import readable_rows
from registry.db.database import Database
from registry.db.paging import Paged, Paging, page_of
from registry.db.statements import put
from registry.db.stored_json import readable, view_of
from registry.db.types import db_now
from registry.errors import NotFound
from registry.principal import Principal
from registry.promotion.asking import AskedMove
from registry.promotion.models import DecisionRow
from registry.usage.charging import charge, record_bytes
from sdk.schemas.decisions import Decision, DecisionOutcome, RuleOutcome, RuleResult, StandingPolicyView
from sdk.schemas.job_requests import EvaluationRequest

#: A rule that a reader may not see says this, and nothing else.
HIDDEN = "a rule that you may not see"
#: From the best to the worst.
_RESULTS: Sequence[RuleResult] = ("passed", "unknown", "failed")
#: How much of a rule's name and line is kept.
_MOST_CHARS = 2000


@dataclass(frozen=True)
class MoveVerdict:
    """What a question came to."""

    outcome: DecisionOutcome
    #: `RuleOutcome`s, and `EvaluationRequest`s that would make unknown ones known, as JSON.
    rules: Sequence[Any] = ()
    missing: Sequence[Any] = ()
    notes: Sequence[str] = ()


class Decisions:
    """The service that shows decisions."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def list(
        self, *, adapter: str, alias: str | None = None, who: Principal, **page: Unpack[Paging]
    ) -> Paged[Decision]:
        """The decisions about an adapter's aliases, or about one of them, newest first. Raises InvalidName, NotFound."""
        with self._db.read() as session:
            row = find_adapter(session, adapter, who)
            query = select(DecisionRow).where(DecisionRow.adapter_pk == row.pk)
            if alias is not None:
                query = query.where(DecisionRow.alias == alias)
            return page_of(
                session,
                query,
                DecisionRow.pk,
                views=lambda rows: present_decisions(session, row.name, rows, who),
                weight=DecisionRow.record_bytes,
                **page,
            )

    def show(self, ident: str, *, who: Principal) -> Decision:
        """One decision. Raises NotFound."""
        with self._db.read() as session:
            query = select(DecisionRow, Adapter).join(Adapter, Adapter.pk == DecisionRow.adapter_pk)
            there = session.execute(query.where(DecisionRow.id == ident)).first()
            if there is None or not who.may("read", there[1].namespace):
                raise NotFound(
                    f"there is no decision {ident[:40]!a}; list them with: adapterctl decisions ADAPTER", param="id"
                )
            row, adapter = there
            return present_decisions(session, adapter.name, [row], who)[0]


def new_id() -> str:
    """Return an id for a decision, which is known before the alias moves."""
    return secrets.token_hex(8)


def write_decision(
    session: Session,
    asked: AskedMove,
    verdict: MoveVerdict,
    *,
    ident: str,
    reason: str,
    who: Principal,
    move: int | None = None,
) -> DecisionRow:
    """Record a decision, and charge it to the adapter's namespace; with the key of the `move`, if the alias moved."""
    question = asked.question
    policies = [
        StandingPolicyView(scope=policy.scope, version=policy.version, digest=policy.digest).model_dump(mode="json")
        for policy in question.policies
    ]
    rules, missing, notes = list(verdict.rules), list(verdict.missing), list(verdict.notes)
    row = DecisionRow(
        id=ident,
        adapter_pk=question.adapter_pk,
        alias=question.alias,
        kind=question.kind,
        digest=question.digest,
        number=question.number,
        from_number=question.from_number,
        outcome=verdict.outcome,
        moved=move is not None,
        move=move,
        rules=rules,
        policies=policies,
        notes=notes,
        missing=missing,
        inputs_digest=asked.inputs_digest,
        reason=reason,
        token_id=who.token_id,
        decided_by=who.name,
        decided_at=db_now(session),
        # Going back, and taking an alias away, must also be possible where a quota is used up. What only was asked is charged.
        record_bytes=record_bytes(rules, policies, notes, missing, reason) if rules or move is None else 0,
    )
    put(session, row)
    charge(session, question.namespace, records=row.record_bytes)
    return row


def stored_rules(outcomes: Iterable[RuleOutcome]) -> list[Any]:
    """Return outcomes as they are stored."""
    return [
        one.model_copy(update={"rule": one.rule[:_MOST_CHARS], "message": one.message[:_MOST_CHARS]}).model_dump(
            mode="json"
        )
        for one in outcomes
    ]


def present_decisions(session: Session, adapter: str, rows: Sequence[DecisionRow], who: Principal) -> list[Decision]:
    """Return decisions about an adapter that the caller may read, without what they may not: of rows that they may not
    use, they learn whether rules passed, once for each policy.
    """
    read = [([_rule(one) for one in row.rules], [_request(one) for one in row.missing]) for row in rows]
    named = {digest for rules, missing in read for one in rules for digest in one.data}
    named |= {one.data for _, missing in read for one in missing if one is not None}
    allowed = set(readable_rows(session, named, who)) if named else set()
    return [
        view_of(
            Decision,
            row,
            adapter=adapter,
            ref=None if row.number is None else f"{adapter}@v{row.number}",
            rules=_visible(rules, allowed),
            policies=[one for each in row.policies if (one := readable(StandingPolicyView, each)) is not None],
            missing=[one for one in missing if one is not None and one.data in allowed],
        )
        for row, (rules, missing) in zip(rows, read, strict=True)
    ]


def refusal_of(decision: Decision) -> str:
    """Return the sentence that refuses a move, from a decision as its reader may know it."""
    failing = [one for one in decision.rules if one.outcome != "passed"]
    shown = "; ".join(f"{one.outcome}: {one.rule[:200]}" for one in failing[:3])
    more = f"; and {len(failing) - 3} more" if len(failing) > 3 else ""
    return (
        f"the policies of {decision.adapter}@{decision.alias} don't let it {_verb(decision)} ({shown}{more}); see why with: "
        f"adapterctl decisions show {decision.id}"
    )


def _verb(decision: Decision) -> str:
    if decision.kind == "remove":
        return "be removed"
    return f"{'go back' if decision.kind == 'rollback' else 'move'} to v{decision.number}"


def _visible(rules: Sequence[RuleOutcome], allowed: set[str]) -> list[RuleOutcome]:
    shown: list[RuleOutcome] = []
    #: The place of the one line for the hidden rules of each policy, among those that are shown.
    places: dict[tuple[str, int], int] = {}
    for one in rules:
        if not one.hidden and allowed.issuperset(one.data):
            shown.append(one)
            continue
        place = places.setdefault((one.scope, one.policy), len(shown))
        if place == len(shown):
            shown.append(_hidden(one.scope, one.policy, one.outcome))
        elif _RESULTS.index(one.outcome) > _RESULTS.index(shown[place].outcome):
            shown[place] = _hidden(one.scope, one.policy, one.outcome)
    return shown


def _hidden(scope: str, policy: int, outcome: RuleResult) -> RuleOutcome:
    message = "ask who may read its rows, or an admin of the policy's scope"
    return RuleOutcome(
        rule=HIDDEN,
        kind="hidden",
        outcome=outcome,
        numbers={},
        message=message,
        scope=scope,
        policy=policy,
        hidden=True,
    )


def _rule(stored: Any) -> RuleOutcome:
    """A stored outcome; one that only a newer release can read is unknown, and not shown."""
    return readable(RuleOutcome, stored) or _hidden("*", 0, "unknown")


def _request(stored: Any) -> EvaluationRequest | None:
    return readable(EvaluationRequest, stored)
