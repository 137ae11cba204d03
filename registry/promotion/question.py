"""What the gate asks the rules: may this alias name these bytes? And what a rule answers with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from registry.artifacts.service import Artifacts
from registry.datasets.signatures import SignedDatasets
from registry.db.database import Database
from registry.evaluations.rows import EvaluationRows
from registry.principal import Principal
from registry.rows.service import RowReading
from sdk.schemas.decisions import MoveKind, RuleOutcome
from sdk.schemas.job_requests import EvaluationRequest
from sdk.schemas.policies import PolicyDocument


class JudgingNeededError(Exception):
    """The answer isn't known yet, and the caller has no time to find it."""


@dataclass(frozen=True)
class StandingPolicy:
    """The newest version of a policy that was not removed."""

    scope: str
    version: int
    digest: str
    document: PolicyDocument


@dataclass(frozen=True)
class Question:
    """One move of one alias that somebody wants."""

    adapter_pk: int
    adapter: str
    namespace: str
    alias: str
    kind: MoveKind
    #: What the alias is to name; all None for a removal.
    version_pk: int | None
    number: int | None
    digest: str | None
    base_fingerprint: str | None
    #: What it names now; all None: nothing.
    from_version_pk: int | None
    from_number: int | None
    from_digest: str | None
    who: Principal
    #: The database's clock, in seconds since 1970.
    now_s: float
    #: All that stand for the alias: of `*`, of the namespace, of the adapter, in this order.
    policies: Sequence[StandingPolicy]
    #: Digest over those of all of them.
    policies_digest: str
    #: How many records of scores may be read for each dataset while others wait; None: nobody does. Where there are more, a
    #: family raises JudgingNeededError.
    most_scores: int | None = None


@dataclass(frozen=True)
class Bench:
    """What rules are judged with, outside of any transaction."""

    db: Database
    artifacts: Artifacts
    rows: EvaluationRows
    reading: RowReading
    signed: SignedDatasets


class Gathered(Protocol):
    """What one rule, or several of one policy, is judged by: read in a transaction, judged after it."""

    @property
    def identity(self) -> Any:
        """Plain JSON that differs whenever what it is judged by differs, and so the outcome could; no time that only passes is
        in it. What counts or has become too old by `Question.now_s` is: an earlier answer with the same identity is given
        again.
        """
        ...

    @property
    def missing(self) -> Sequence[EvaluationRequest]:
        """Evaluations that would make it known."""
        ...

    @property
    def until_s(self) -> float:
        """The last moment, by the database's clock in seconds since 1970, at which nothing of it has ended by time alone, such as
        the age of an approval; infinity: nothing does.
        """
        ...

    def judge(self, bench: Bench) -> Sequence[RuleOutcome]:
        """Return the outcome of each of its rules. Raises Unavailable."""
        ...


class RuleFamily(Protocol):
    """Reads what a policy's rules of one kind are judged by; None: the policy has none."""

    def __call__(self, session: Any, question: Question, policy: StandingPolicy) -> Gathered | None: ...
