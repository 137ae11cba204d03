"""Decisions about moves of aliases: what each rule of each policy found."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field

from sdk.formats.refs import parse_alias, parse_name
from sdk.schemas.aliases import AliasName, Name
from sdk.schemas.job_requests import EvaluationRequest
from sdk.schemas.wire import IF_ANY, IF_SET, Open, Sha256, Wire

#: What an alias's rule found.
RuleResult = Literal["passed", "failed", "unknown"]
#: Which rule it is; "hidden": one that the reader may not see.
RuleKind = Literal[
    "floor", "not_worse", "forgetting", "contamination", "probe", "signature", "approvals", "base", "hidden"
]
#: How an alias was to be moved.
MoveKind = Literal["set", "rollback", "remove"]
#: What a decision came to: all rules passed; some did not; an admin moved it all the same; it went back to what it had named
#: by a decision that passed.
DecisionOutcome = Literal["passed", "refused", "overridden", "rolled_back"]


class RuleOutcome(Wire):
    """What one rule found."""

    #: "rouge_l on heldout@v2 at least 0.3".
    rule: str
    kind: Annotated[RuleKind, Open]
    outcome: RuleResult
    #: score, near, bound, margin, difference, rows, alpha, tries …; what is not known is left out.
    numbers: dict[str, float]
    #: One line: what was found, and if it did not pass, what to do.
    message: str
    #: Of the policy: "team/*", and its version.
    scope: str
    policy: int
    #: Digests of all datasets whose rows it says anything of: only who may read all of them sees it.
    data: Annotated[list[Sha256], IF_ANY] = []
    #: Whether the reader may not see what it asks; the other fields then say nothing of it.
    hidden: Annotated[bool, IF_ANY] = False


class StandingPolicyView(Wire):
    """A policy that a decision was made by."""

    scope: str
    version: int
    digest: Sha256


class Decision(Wire):
    """What was found when an alias was to move."""

    id: str
    adapter: str
    alias: str
    kind: Annotated[MoveKind, Open]
    #: What it was to name; None: nothing.
    ref: str | None
    digest: str | None
    number: int | None
    #: What it named then.
    from_number: int | None
    outcome: Annotated[DecisionOutcome, Open]
    #: Whether the alias moved, and the number of the move.
    moved: bool
    move: int | None = None
    rules: list[RuleOutcome]
    policies: list[StandingPolicyView]
    notes: Annotated[list[str], IF_ANY] = []
    #: The evaluations that would make unknown rules known, in the order in which they would be made.
    missing: Annotated[list[EvaluationRequest], IF_ANY] = []
    reason: str
    decided_by: str
    decided_at: datetime


class PromotionCheck(Wire):
    """A question: would this alias move to this version?"""

    adapter: Annotated[Name, AfterValidator(parse_name)]
    alias: Annotated[AliasName, AfterValidator(parse_alias)]
    number: Annotated[int, Field(ge=1, le=10**9, examples=[3])]
    #: As of a move.
    expect: Annotated[Annotated[int, Field(ge=0, le=10**9)] | None, IF_SET] = None


RULE_KINDS: tuple[str, ...] = get_args(RuleKind)
