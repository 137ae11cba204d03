"""Rules whose outcome follows from what the database says, so that nothing is left to compute outside of a transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from registry.promotion.question import Bench, StandingPolicy
from sdk.schemas.decisions import RuleKind, RuleOutcome, RuleResult
from sdk.schemas.job_requests import EvaluationRequest


@dataclass(frozen=True)
class ReadOutcomes:
    """Outcomes that are known when they are read; they are their own identity."""

    outcomes: Sequence[RuleOutcome]
    #: As `Gathered.until_s`.
    until_s: float = inf

    @property
    def identity(self) -> Any:
        """All that the outcomes say."""
        return [outcome.model_dump(mode="json") for outcome in self.outcomes]

    @property
    def missing(self) -> Sequence[EvaluationRequest]:
        """None: what is scored for rules over rows makes these known, too."""
        return ()

    def judge(self, bench: Bench) -> Sequence[RuleOutcome]:
        """Return them."""
        return self.outcomes


def outcome_of(
    policy: StandingPolicy,
    kind: RuleKind,
    rule: str,
    outcome: RuleResult,
    message: str,
    *,
    numbers: Mapping[str, float] | None = None,
    data: Sequence[str] = (),
) -> RuleOutcome:
    """Return what a rule of a policy found."""
    return RuleOutcome(
        rule=rule,
        kind=kind,
        outcome=outcome,
        numbers=dict(numbers or {}),
        message=message,
        scope=policy.scope,
        policy=policy.version,
        data=list(data),
    )
