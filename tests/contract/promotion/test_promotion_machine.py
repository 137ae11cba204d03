"""Long random sequences of what people do to versions, policies and aliases: no alias with a policy ever names what no decision
that passed, no allowed rollback and no audited override put there.
"""

from __future__ import annotations

import itertools
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from contract.promotion.databases import IN_PROCESS_ON_BOTH, opened_alone
from contract.promotion.meanwhile import Meanwhile
from contract.promotion.oracle import Oracle
from contract.promotion.scene import STAFF, Scene, floor, gate_of
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from support.registries import World
from support.soak import SOAKING, scale

from registry.catalog.versions.lifecycle import VersionState
from registry.errors import Conflict, NotFound, PromotionRefused, RegistryError
from registry.principal import LOCAL, Role
from sdk.schemas.approvals import ApprovalRequest
from sdk.schemas.catalog import VersionMove
from sdk.schemas.policies import PolicyRemoval

STEPS = 20
#: Sequences of one seed: after so many, Hypothesis begins to repeat itself with small changes.
OF_A_SEED = 10
SEQUENCES = itertools.count(1)

ADAPTERS = ("a", "a", "a", "b")
NUMBERS = range(4)
PROMOTERS = ("ann", "ben", "cat", "boss")
SCOPES = ("adapter", "adapter", "namespace", "all")
#: What policies ask for; each setting of another one is a new version.
POLICIES = ("floor", "high", "one", "two", "checked", "automatic", "nothing")
LOSSES = (0.1, 0.7, 2.0)
STATES = ("archived", "ready", "deleted")

#: A method of the machine, how often it is to be chosen, and two lists of what it may be given, as short as may be.
CHANGES: dict[str, tuple[int, list[tuple[Any, ...]], list[tuple[Any, ...]]]] = {
    "publish": (2, [*product(ADAPTERS)], [()]),
    "score": (3, [*product(ADAPTERS, NUMBERS)], [*product(LOSSES)]),
    "set_policy": (4, [*product(SCOPES)], [*product(POLICIES)]),
    "end_policy": (1, [*product(SCOPES)], [()]),
    "approve": (6, [*product(ADAPTERS, NUMBERS)], [*product(PROMOTERS)]),
    "disapprove": (1, [*product(ADAPTERS, NUMBERS)], [*product(PROMOTERS)]),
    "withdraw": (1, [*product(ADAPTERS, NUMBERS)], [()]),
    "move": (4, [*product(ADAPTERS, NUMBERS)], [*product((*PROMOTERS, "will"))]),
    "override": (2, [*product(ADAPTERS, NUMBERS)], [*product(("boss", "root", "ann"))]),
    "roll_back": (3, [*product(ADAPTERS)], [*product(PROMOTERS)]),
    "remove": (1, [*product(ADAPTERS)], [*product(PROMOTERS, (False, False, True))]),
    "move_state": (1, [*product(ADAPTERS, NUMBERS)], [*product(STATES)]),
    "replace": (1, [*product(PROMOTERS)], [*product((Role.PROMOTER, Role.PROMOTER, Role.WRITER))]),
    "go_on": (2, [*product(LOSSES)], [()]),
}
#: How many of the steps are moves between whose verdict and end something else comes, and what that is.
MEANWHILE = 8
BETWEEN = ("set_policy", "end_policy", "disapprove", "score", "replace", "withdraw", "move_state", "move")


def _given(what: str) -> st.SearchStrategy[Any]:
    return st.tuples(st.just(what), *map(st.sampled_from, CHANGES[what][1:]))


ONE = st.sampled_from([what for what, (often, _, _) in CHANGES.items() for _ in range(often)]).flatmap(_given)
TWO = st.tuples(
    st.just("meanwhile"),
    st.sampled_from(("move", "move", "roll_back")).flatmap(_given),
    st.sampled_from(BETWEEN).flatmap(_given),
)
CHANGE = st.integers(0, sum(often for often, _, _ in CHANGES.values()) + MEANWHILE - 1).flatmap(
    lambda drawn: TWO if drawn < MEANWHILE else ONE
)


class PromotionMachine(RuleBasedStateMachine):
    """Lets people act, and an oracle judge what came of it."""

    def __init__(self, scene: Scene, meanwhile: Meanwhile, data: str, seen: Counter[str]) -> None:
        super().__init__()
        self.scene, self.services, self.meanwhile, self.seen = scene, scene.services, meanwhile, seen
        #: Adapters and an alias of its own, in a namespace that all share: so a policy for all is for this sequence alone.
        sequence = next(SEQUENCES)
        self.alias, self.prefix, self.data = f"live{sequence}", f"s{sequence}-", data
        self.oracle = Oracle(scene.space, [f"{self.prefix}a", f"{self.prefix}b"])
        self.published: Counter[str] = Counter()
        for name in PROMOTERS:
            if self.scene.role_of(name) is not STAFF[name]:
                self.replace(name, STAFF[name])

    @initialize(losses=st.lists(st.sampled_from(LOSSES), min_size=2, max_size=3), kind=st.sampled_from(POLICIES))
    def begin(self, losses: list[float], kind: str) -> None:
        """Give the first adapter versions with scores, and a policy."""
        for number, loss in enumerate(losses):
            self.publish("a")
            self.score("a", number, loss)
        self.set_policy("adapter", kind)

    @rule(change=CHANGE)
    def change(self, change: tuple[str, Any, Any]) -> None:
        """Do one thing. One rule for all, since each of several would be left out of most sequences."""
        what, first, second = change
        if what != "meanwhile":
            self._do(what, first, second)
            return
        with self.meanwhile.happens(lambda: self._do(*second)) as happened:
            self._do(*first)
        self.seen["something came between"] += len(happened)

    def _do(self, what: str, first: tuple[Any, ...], second: tuple[Any, ...]) -> None:
        try:
            getattr(self, what)(*first, *second)
        except RegistryError:
            self.seen[f"{what} was refused"] += 1
        else:
            self.seen[what] += 1

    # What people do.

    def publish(self, name: str) -> None:
        """Publish a version."""
        self.scene.publish(self.prefix + name)
        self.published[name] += 1

    def score(self, name: str, number: int, loss: float) -> None:
        """Score a version; the first scores count."""
        self.scene.score(self._number(name, number), self.data, loss, self.prefix + name)

    def set_policy(self, scope: str, kind: str) -> None:
        """Set a policy, which may be stricter or not."""
        asked: dict[str, dict[str, Any]] = {
            "nothing": {},
            "floor": floor(self.data),
            "high": floor(self.data, 0.5),
            "one": {"approvals": 1},
            "two": floor(self.data, approvals=2),
            "checked": {"approvals": 1, "rollback": "checked"},
            "automatic": floor(self.data, evaluate="on_ready", promote="automatic", cap=6),
        }
        self.scene.policy(self.alias, self._scope(scope), by="root", **asked[kind])

    def end_policy(self, scope: str) -> None:
        """End a policy."""
        removal = PolicyRemoval(scope=self._scope(scope), alias=self.alias)
        self.services.policies.remove(removal=removal, who=LOCAL)

    def approve(self, name: str, number: int, by: str) -> None:
        """Approve a version."""
        self._vote("approve", name, number, by)

    def disapprove(self, name: str, number: int, by: str) -> None:
        """Veto a version."""
        self._vote("disapprove", name, number, by)

    def withdraw(self, name: str, number: int) -> None:
        """Withdraw an approval or a veto, whoever gave it."""
        page = self.services.approvals.list(
            adapter=self.scene.adapter(self.prefix + name), alias=self.alias, cursor=None, limit=100, who=LOCAL
        )
        standing = [view for view in page.items if view.withdrawn_at is None]
        if standing:
            self.services.approvals.withdraw(ident=standing[number % len(standing)].id, who=LOCAL)

    def move(self, name: str, number: int, by: str) -> None:
        """Point the alias at a version. What a policy refuses must not hold."""
        target = self._number(name, number)
        try:
            self.scene.move(target, self.alias, self.prefix + name, by=by)
        except PromotionRefused as refusal:
            self.seen["a policy refused"] += 1
            self._require_reason(name, target, by, refusal)
            raise

    def override(self, name: str, number: int, by: str) -> None:
        """Point the alias at a version whatever policies say."""
        target = self._number(name, number)
        self.scene.move(target, self.alias, self.prefix + name, by=by, override=True, reason="it must")

    def roll_back(self, name: str, by: str) -> None:
        """Point the alias at what it named before."""
        named = self.scene.named(self.alias, self.prefix + name)
        self.scene.roll_back(named or 0, self.alias, self.prefix + name, by=by)

    def remove(self, name: str, by: str, override: bool) -> None:
        """Take the alias away."""
        said = {"override": True, "reason": "it must"} if override else {}
        self.scene.remove(self.alias, self.prefix + name, by=by, **said)

    def move_state(self, name: str, number: int, state: str) -> None:
        """Archive, restore or delete a version."""
        change = VersionMove(ref=f"{self.scene.adapter(self.prefix + name)}@v{self._number(name, number)}", reason="so")
        self.services.version_states.move(change, VersionState(state), who=LOCAL)

    def replace(self, who: str, role: Role) -> None:
        """Revoke somebody's token, and give them another, perhaps with less rights."""
        self.scene.fire(who)
        self.scene.hire(who, STAFF[who] if role is Role.PROMOTER else role)

    def go_on(self, loss: float) -> None:
        """Let the registry do what it does by itself, and a worker do the jobs."""
        self.services.automatic.go_on()
        self.scene.work(loss)
        self.services.automatic.go_on()

    def _vote(self, kind: str, name: str, number: int, by: str) -> None:
        request = ApprovalRequest.model_validate(
            {
                "adapter": self.scene.adapter(self.prefix + name),
                "alias": self.alias,
                "number": self._number(name, number),
                "kind": kind,
            }
        )
        self.services.approvals.give(request=request, who=self.scene.who(by))

    def _number(self, name: str, drawn: int) -> int:
        return 1 + drawn % (self.published[name] or 1)

    def _scope(self, which: str) -> str:
        return {"adapter": self.scene.adapter(f"{self.prefix}a"), "namespace": f"{self.scene.space}/*", "all": "*"}[
            which
        ]

    def _require_reason(self, name: str, number: int, by: str, refusal: PromotionRefused) -> None:
        with self.services.db.read() as session:
            self.oracle.learn(session)
            pk = self.oracle.pk_of(self.scene.adapter(self.prefix + name))
            why = self.oracle.why_not(session, pk, self.alias, number, self.scene.who(by).name)
        assert why is not None, f"nothing speaks against it, and yet: {refusal.message}"

    # What must hold.

    @invariant()
    def every_move_was_allowed(self) -> None:
        """By what is stored."""
        with self.services.db.read() as session:
            self.oracle.look(session)

    def teardown(self) -> None:
        """Count what was seen, and leave no policy for all behind."""
        self.seen.update(self.oracle.seen)
        for scope in ("all", "namespace", "adapter"):
            try:
                self.end_policy(scope)
            except NotFound:
                continue


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A registry of these tests alone: what follows policies by itself follows all that there are."""
    with opened_alone(request, tmp_path_factory) as found:
        yield found


@pytest.fixture(scope="module")
def stage(world: World, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene(world, tmp_path_factory.mktemp("stage"))


@IN_PROCESS_ON_BOTH
@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_no_alias_with_a_policy_names_what_nothing_allowed(world: World, tmp_path: Path) -> None:
    meanwhile, seen = Meanwhile(), Counter[str]()
    scene = Scene(world, tmp_path / "files", gate=gate_of(world.services, {"meanwhile": meanwhile}))
    data = scene.rows()
    # A short run does the same each time; a soak looks where nobody has looked.
    first = secrets.randbits(32) if SOAKING else 0
    count = scale(400, share=130)
    for n in range(0, count, OF_A_SEED):
        machine = seed(first + n)(lambda: PromotionMachine(scene, meanwhile, data, seen))
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=min(OF_A_SEED, count - n),
                stateful_step_count=STEPS,
                deadline=None,
                database=None,
                phases=(Phase.generate, Phase.shrink) if SOAKING else (Phase.generate,),
                suppress_health_check=list(HealthCheck),
            ),
        )
    # Otherwise it would hold because nothing happens.
    expected = ["passed", "a policy refused", "something came between"]
    expected += ["overridden", "rolled_back", "automatic", "removal passed"] if SOAKING else []
    assert [what for what in expected if not seen[what]] == [], seen


def _never(asked: object, held: object, last: object) -> bool:
    """Take what was read for what is there: a gate without its second reading."""
    return True


class TestSecondReading:
    """What comes between a verdict and its move, by a gate that reads again, and by one that does not."""

    @pytest.fixture(params=["policy for all", "veto", "newer score", "revoked token", "end of an approval"])
    def between(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    def play(self, stage: Scene, between: str, **given: Any) -> tuple[Oracle, bool]:
        """Approve and score a version, move the alias to it, and let something come between; say whether it moved."""
        meanwhile, world = Meanwhile(), stage.world
        scene = replace(stage, gate=gate_of(world.services, {"meanwhile": meanwhile}, **given))
        name, alias = f"b{next(SEQUENCES)}", f"raced{next(SEQUENCES)}"
        oracle = Oracle(scene.space, [name])
        data, number = scene.rows(), scene.publish(name)
        scene.score(number, data, 0.5, name)
        # An earlier one may have revoked his token.
        with suppress(Conflict):
            scene.hire("ben", Role.PROMOTER)
        scene.policy(alias, scene.adapter(name), **floor(data, approvals=1))
        request = ApprovalRequest(adapter=scene.adapter(name), alias=alias, number=number, kind="approve")
        approval = world.services.approvals.give(request=request, who=scene.who("ben"))
        with world.services.db.read() as session:
            oracle.look(session)
        veto = request.model_copy(update={"kind": "disapprove"})
        acts: dict[str, Callable[[], object]] = {
            "policy for all": lambda: scene.policy(alias, "*", by="root", **floor(data, 0.1)),
            "veto": lambda: world.services.approvals.give(request=veto, who=scene.who("cat")),
            "newer score": lambda: scene.score(number, data, 2.0, name),
            "revoked token": lambda: scene.fire("ben"),
            "end of an approval": lambda: world.services.approvals.withdraw(ident=approval.id, who=scene.who("ben")),
        }
        with meanwhile.happens(acts[between]) as happened:
            try:
                scene.move(number, alias, name, by="ann")
            except PromotionRefused:
                moved = False
            else:
                moved = True
        assert happened
        return oracle, moved

    def test_move_is_refused(self, stage: Scene, between: str) -> None:
        oracle, moved = self.play(stage, between)
        assert not moved
        with stage.services.db.read() as session:
            oracle.look(session)

    def test_oracle_sees_that_it_is_missing(self, stage: Scene, between: str) -> None:
        oracle, moved = self.play(stage, between, unchanged=_never)
        assert moved
        with stage.services.db.read() as session, pytest.raises(AssertionError, match=r"^move "):
            oracle.look(session)
