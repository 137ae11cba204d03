"""What tests of the gate share: a namespace whose alias has a policy, and rules that do as a test says."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

import httpx
from support.payloads import make_payload
from support.people import SEEDS
from support.registries import World

from registry.app.services import Services
from registry.artifacts.service import Artifacts
from registry.datasets.signatures import SignedDatasets
from registry.principal import LOCAL, Principal, Role
from registry.promotion.asking import AskedMove
from registry.promotion.gate import Gate, unchanged
from registry.promotion.question import Bench, Question, RuleFamily, StandingPolicy
from sdk.schemas.aliases import AliasMove, AliasMoveView, AliasRemoval, AliasRollback, AliasView
from sdk.schemas.decisions import Decision, PromotionCheck, RuleOutcome, RuleResult
from sdk.schemas.job_requests import EvaluationRequest
from sdk.schemas.policies import PolicyDocument, PolicyRemoval, PolicySetting, PolicyView


@dataclass(frozen=True)
class Said:
    """Rules that a test has made up."""

    identity: Any
    outcomes: Sequence[RuleOutcome]
    while_judged: Callable[[], None]
    missing: Sequence[EvaluationRequest] = ()
    until_s: float = inf

    def judge(self, bench: Bench) -> Sequence[RuleOutcome]:
        """Do what the test does meanwhile, and return them."""
        self.while_judged()
        return self.outcomes


@dataclass
class Rules:
    """A family of one rule for each policy, which says what it is told to, and counts how often it is judged."""

    result: RuleResult = "passed"
    #: What it says instead when it is judged by something else than at first.
    then: RuleResult | None = None
    data: Sequence[str] = ()
    missing: Sequence[EvaluationRequest] = ()
    #: What it is judged by.
    identity: Callable[[Any, Question], Any] = lambda session, question: None
    meanwhile: Callable[[], None] = lambda: None
    judged: int = 0
    _first: Any = None
    _counting: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, session: Any, question: Question, policy: StandingPolicy) -> Said:
        """Read the identity."""
        judged_by = self.identity(session, question)
        with self._counting:
            self._first = judged_by if self._first is None else self._first
        result = self.result if self.then is None or judged_by == self._first else self.then
        rule = RuleOutcome(
            rule="loss on heldout at most 2",
            kind="floor",
            outcome=result,
            numbers={"score": 2.5},
            message="2.5 on 400 rows of heldout; train longer",
            scope=policy.scope,
            policy=policy.version,
            data=list(self.data),
        )
        return Said([result, judged_by], [rule], self._while_judged, self.missing)

    def _while_judged(self) -> None:
        with self._counting:
            self.judged += 1
        self.meanwhile()


@dataclass
class Space:
    """A namespace with an adapter, and people in it by their roles."""

    world: World
    space: str
    alias: str = "live"
    secrets: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The adapter."""
        return f"{self.space}/a"

    @property
    def services(self) -> Services:
        """Those of the registry."""
        return self.world.services

    def who(self, name: str, role: Role = Role.PROMOTER) -> Principal:
        """Somebody of this name in the namespace, with a token."""
        if name not in self.secrets:
            made = self.services.tokens.create(name=f"{self.space} {name}", grants={self.space: role}, who=LOCAL)
            self.secrets[name] = made.secret
        return self.services.tokens.check(self.secrets[name])

    @property
    def boss(self) -> Principal:
        """An admin of the namespace."""
        return self.who("boss", Role.ADMIN)

    def publish(self, name: str | None = None) -> int:
        """Publish new bytes; return their number."""
        payload = make_payload(next(SEEDS))
        writer = self.who("writer", Role.WRITER)
        sent = self.services.uploads.begin(blobs=payload.blobs, who=writer, namespace=self.space)
        for put in sent.put:
            httpx.put(put.url, content=payload.files[put.sha256], headers=put.headers).raise_for_status()
        published = self.services.publisher.publish(
            publication=payload.publication(name or self.name, sent.id), who=writer
        )
        return published.version.number or 0

    def rows(self) -> str:
        """A digest that nobody has."""
        return hashlib.sha256(f"rows {next(SEEDS)}".encode()).hexdigest()

    # Policies.

    def policy(self, scope: str | None = None, *, by: Principal | None = None, **asked: Any) -> PolicyView:
        """Set a policy for the alias."""
        document = PolicyDocument.model_validate({"alias": self.alias, **asked})
        setting = PolicySetting(scope=scope or self.name, policy=document)
        return self.services.policies.set(setting=setting, who=by or self.boss)

    def end_policy(self, scope: str | None = None) -> None:
        """Remove it."""
        who = LOCAL if scope == "*" else self.boss
        self.services.policies.remove(removal=PolicyRemoval(scope=scope or self.name, alias=self.alias), who=who)

    # Moves.

    def gate(
        self,
        rules: Mapping[str, RuleFamily] | RuleFamily,
        *,
        unchanged: Callable[[AskedMove, Sequence[int], int | None], bool] = unchanged,
    ) -> Gate:
        """A gate with these rules."""
        families = rules if isinstance(rules, Mapping) else {"scores": rules}
        return Gate(self.services.db, bench_of(self.services), families=families, unchanged=unchanged)

    def move(self, gate: Gate, number: int, *, who: Principal | None = None, **given: Any) -> AliasView:
        """Point the alias at a version."""
        body = AliasMove(adapter=self.name, alias=self.alias, number=number, **given)
        return gate.move(move=body, who=who or self.who("ann"))

    def roll_back(self, gate: Gate, expect: int, *, who: Principal | None = None, **given: Any) -> AliasView:
        """Point it back."""
        body = AliasRollback(adapter=self.name, alias=self.alias, expect=expect, **given)
        return gate.rollback(rollback=body, who=who or self.who("ann"))

    def remove(self, gate: Gate, *, who: Principal | None = None, **given: Any) -> None:
        """Take it away."""
        gate.remove(removal=AliasRemoval(adapter=self.name, alias=self.alias, **given), who=who or self.who("ann"))

    def check(self, gate: Gate, number: int, *, who: Principal | None = None, **given: Any) -> Decision:
        """Ask whether it would move."""
        body = PromotionCheck(adapter=self.name, alias=self.alias, number=number, **given)
        return gate.check(check=body, who=who or self.who("ann"))

    def history(self) -> list[AliasMoveView]:
        """Its moves, newest first."""
        return self.services.aliases.history(adapter=self.name, alias=self.alias, who=LOCAL).items

    def named(self) -> int | None:
        """What the alias names."""
        there = self.services.aliases.list(adapter=self.name, who=LOCAL)
        return next((view.number for view in there if view.alias == self.alias), None)

    def decisions(self, who: Principal = LOCAL) -> list[Decision]:
        """All decisions about it, newest first."""
        return self.services.decisions.list(adapter=self.name, alias=self.alias, who=who).items


def bench_of(services: Services) -> Bench:
    """What rules are judged with."""
    artifacts: Artifacts = services.artifacts
    signed = SignedDatasets(services.db, artifacts, services.reading)
    return Bench(services.db, artifacts, services.evaluation_rows, services.reading, signed)
