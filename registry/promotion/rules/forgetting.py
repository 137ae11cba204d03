"""The rules about what a version does to general texts: how much worse its base predicts them, and how differently."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from math import inf
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.evaluations.models import Evaluation
from registry.evaluations.standing import of_version
from registry.principal import SYSTEM
from registry.promotion.makers import makers_of
from registry.promotion.question import Gathered, Question, StandingPolicy
from registry.promotion.rules.read_outcomes import ReadOutcomes, outcome_of
from sdk.schemas.decisions import RuleOutcome
from sdk.schemas.evaluation import EvaluationSpec
from sdk.schemas.policies import seconds_of

#: The texts, as `Conditions.general_texts` names them: scores over those of another release are other scores.
GENERAL_TEXTS = "d6a0e6d8351d1ab78e1561724936cdecbc462bb9be86611e77d1bf468ee451f4"
#: Later scores of the same bytes may differ from the first ones by this share and this many nats per token: by rounding.
ROUNDING, ROUNDING_NATS = 0.01, 1e-3
#: The first of all scores of some bytes are looked at.
_MOST_READ = 1000


class _Scores(NamedTuple):
    id: str
    at: datetime
    owner: str | None
    by: str | None
    loss: float
    loss_base: float
    kl: float

    @property
    def rise(self) -> float:
        """How far the loss is above that of the bare base, in nats per token."""
        return self.loss - self.loss_base


def forgetting(session: Session, question: Question, policy: StandingPolicy) -> Gathered | None:
    """Read what the scores that count for the version say of the general texts: the first, under the precisions of the policy,
    as new as any of its rules over rows asks, and by somebody else if any does.
    """
    asked = policy.document.forgetting
    if asked is None or question.digest is None:
        return None
    precisions = {rule.evaluation.precision for rule in policy.document.require} or {EvaluationSpec().precision}
    ages = [seconds_of(rule.max_age) for rule in policy.document.require if rule.max_age is not None]
    scores = _scores(session, question.digest, question.namespace, precisions)
    if ages:
        scores = [one for one in scores if one.at.timestamp() >= question.now_s - min(ages)]
    if any(rule.scored_by == "other_worker" for rule in policy.document.require):
        made = makers_of(session, question.digest, question.namespace)
        scores = [one for one in scores if one.by is not None and not made.include(one.owner, one.by)]
    bounds = [
        ("loss rise on general texts", "rise", asked.loss_rise_at_most),
        ("KL on general texts", "kl", asked.kl_at_most),
    ]
    ref = f"{question.adapter}@v{question.number}"
    return ReadOutcomes(
        [_judged(policy, what, name, bound, scores, ref) for what, name, bound in bounds if bound is not None],
        min(one.at for one in scores).timestamp() + min(ages) if ages and scores else inf,
    )


def _scores(session: Session, digest: str, namespace: str, precisions: Collection[str]) -> list[_Scores]:
    """Return all that say something of the general texts, the first one first."""
    metrics = [Evaluation.metrics[name].as_float() for name in ("general_loss", "general_loss_base", "general_kl")]
    texts = Evaluation.spec["conditions", "general_texts"].as_string()
    query = (
        select(Evaluation.id, Evaluation.created_at, Evaluation.scored_by, Evaluation.scored_by_name, *metrics)
        .where(of_version(Evaluation, SYSTEM, digest=digest, namespace=namespace), texts == GENERAL_TEXTS)
        .where(Evaluation.spec["precision"].as_string().in_(sorted(precisions)))
        .order_by(Evaluation.created_at, Evaluation.id)
        .limit(_MOST_READ)
    )
    found = (_Scores(*row) for row in session.execute(query))
    return [one for one in found if None not in (one.loss, one.loss_base, one.kl)]


def _judged(
    policy: StandingPolicy, what: str, name: str, bound: float, scores: Sequence[_Scores], ref: str
) -> RuleOutcome:
    rule = f"{what} at most {bound:g}"
    if not scores:
        message = f"no scores of {ref} that count say how it predicts general texts; score it with: adapterctl eval {ref} --data FILE"
        return outcome_of(policy, "forgetting", rule, "unknown", message)
    first = scores[0]
    value: float = getattr(first, name)
    numbers = {"score": value, "bound": bound, "general_loss": first.loss, "general_loss_base": first.loss_base}
    for later in scores[1:]:
        other: float = getattr(later, name)
        allowed = ROUNDING_NATS + ROUNDING * max(abs(value), abs(other))
        if (other <= bound) != (value <= bound) and abs(other - value) > allowed:
            message = (
                f"its first scores ({first.id}) say {value:.4g} and later ones ({later.id}) {other:.4g}, further apart than rounding; "
                f"see which machine is wrong: adapterctl evals list {ref}"
            )
            return outcome_of(policy, "forgetting", rule, "unknown", message, numbers=numbers)
    if value <= bound:
        return outcome_of(policy, "forgetting", rule, "passed", f"{value:.4g} by {first.id}", numbers=numbers)
    message = f"{value:.4g} by {first.id}; train it with a lower rate, fewer epochs, or some general rows"
    return outcome_of(policy, "forgetting", rule, "failed", message, numbers=numbers)
