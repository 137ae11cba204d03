"""The rule that few of the rows that judge a version were trained on, by it or by what it came from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.db.stored_json import read_stored
from registry.errors import Unreadable
from registry.evaluations.models import Evaluation
from registry.evaluations.standing import of_version
from registry.principal import SYSTEM
from registry.promotion.question import Gathered, Question, StandingPolicy
from registry.promotion.rules.read_outcomes import ReadOutcomes, outcome_of
from sdk.schemas.decisions import RuleOutcome
from sdk.schemas.policies import RowsRule
from sdk.schemas.scores import Contamination, said

#: The first of all scores of some bytes on a dataset are looked at.
_MOST_READ = 1000
#: How much of why something could not be checked is repeated.
_MOST_REASON_CHARS = 300


def contamination(session: Session, question: Question, policy: StandingPolicy) -> Gathered | None:
    """Read how many rows of each dataset of the policy the registry has found among the version's training rows.

    It was found out when scores on the dataset were kept, over all of its rows. The first scores for which all training rows
    were looked at count; if any others found more, these do.
    """
    asked = policy.document.contamination
    if asked is None or question.digest is None:
        return None
    # The same rows with other metrics are the same rows.
    judged: dict[tuple[str, str | None], RowsRule] = {}
    for rule in policy.document.require:
        judged.setdefault((rule.data, rule.evaluation.columns), rule)
    outcomes = []
    for (data, columns), rule in judged.items():
        found = _found(session, question, data, columns)
        outcomes.append(_judged(question, policy, rule, asked.at_most, found))
    return ReadOutcomes(outcomes)


def _found(session: Session, question: Question, data: str, columns: str | None) -> list[Contamination | None]:
    """Return what is known by each of the scores on a dataset, read in this way; None: nobody has looked yet."""
    read_as = Evaluation.spec["columns"].as_string()
    query = (
        select(Evaluation.contamination)
        .where(of_version(Evaluation, SYSTEM, digest=question.digest, namespace=question.namespace))
        .where(Evaluation.dataset_digest == data, read_as.is_(None) if columns is None else read_as == columns)
        .order_by(Evaluation.created_at, Evaluation.id)
        .limit(_MOST_READ)
    )
    return [_read(stored) for stored in session.scalars(query)]


def _read(stored: Any) -> Contamination | None:
    if not stored:
        return None
    try:
        return read_stored(Contamination, stored, of="the contamination of scores")
    except Unreadable:
        return Contamination(not_checked=["what is stored of it can't be read by this release"])


def _judged(
    question: Question,
    policy: StandingPolicy,
    asked: RowsRule,
    bound: float,
    found: Sequence[Contamination | None],
) -> RuleOutcome:
    name, ref = asked.data_name or asked.data[:12], f"{question.adapter}@v{question.number}"
    rule = f"at most {bound:.3g} of the rows of {name} contaminated"
    data = [asked.data]
    if not found:
        message = f"it has no scores on {name}; make some with: adapterctl eval {ref} --data {name}"
        return outcome_of(policy, "contamination", rule, "unknown", message, data=data)
    looked = [one for one in found if one is not None and one.rows]
    complete = next((one for one in looked if one.of and not one.not_checked), None)
    worst = max(looked, key=_share, default=None)
    if worst is not None and _share(worst) > bound:
        message = f"{said(worst)}; judge it by rows that it has not seen, or train it without these"
        return outcome_of(policy, "contamination", rule, "failed", message, numbers=_numbers(worst, bound), data=data)
    if complete is not None:
        message = said(complete)
        return outcome_of(
            policy, "contamination", rule, "passed", message, numbers=_numbers(complete, bound), data=data
        )
    first = next((one for one in found if one is not None), None)
    if first is None:
        message = "not checked yet; try again in a minute"
        return outcome_of(policy, "contamination", rule, "unknown", message, data=data)
    message = f"{said(first)[:_MOST_REASON_CHARS]}; see what is known of it with: adapterctl lineage {ref} --up"
    numbers = _numbers(first, bound) if first.rows else {}
    return outcome_of(policy, "contamination", rule, "unknown", message, numbers=numbers, data=data)


def _share(found: Contamination) -> float:
    return found.found / found.rows


def _numbers(found: Contamination, bound: float) -> dict[str, float]:
    return {"score": _share(found), "bound": bound, "rows": found.rows, "found": found.found}
