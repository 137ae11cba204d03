"""The gate: what moves by a policy, what doesn't, what is written down of it, and who may see what of that."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from contract.promotion.databases import ON_BOTH
from contract.promotion.gates import Rules, Space
from support.people import bare_http
from support.registries import World
from support.statements import sent
from support.usage import differing

from registry.access.audit.service import AuditQuery
from registry.errors import Conflict, Forbidden, Invalid, NotFound, PromotionRefused, Unavailable
from registry.principal import LOCAL, Principal, Role
from registry.promotion.decisions import HIDDEN
from registry.promotion.question import JudgingNeededError
from registry.promotion.rules.known import FAMILIES
from sdk.client import Client
from sdk.errors import PromotionRefused as RefusedPromotion
from sdk.schemas.aliases import AliasMove
from sdk.schemas.job_requests import EvaluationRequest, EvaluationTarget


@pytest.fixture(scope="module")
def home(people: World) -> Space:
    """A namespace with an adapter of two versions."""
    made = Space(people, f"gate-{uuid.uuid4().hex[:10]}")
    for _ in range(2):
        made.publish()
    return made


@pytest.fixture
def there(home: Space) -> Space:
    """The same, with an alias that no other test has."""
    return replace(home, alias=f"live-{uuid.uuid4().hex[:8]}")


class TestWithoutAPolicy:
    def test_an_alias_moves_as_it_did(self, there: Space) -> None:
        gate = there.gate(rules := Rules("failed"))
        moved = there.move(gate, 1, who=there.who("writer", Role.WRITER), reason="first")
        assert (moved.number, moved.decision, moved.protected) == (1, None, False)
        assert (rules.judged, there.decisions()) == (0, [])
        (move,) = there.history()
        assert (move.move, move.decision, move.outcome) == (moved.move, None, None)

    @ON_BOTH
    def test_alias_that_is_set_to_where_it_is_leaves_no_line_in_its_history(self, there: Space) -> None:
        gate, ana = there.gate(Rules()), there.who("writer", Role.WRITER)
        first = there.move(gate, 1, who=ana)
        again = there.move(gate, 1, who=ana, expect=1)
        assert (first.moved, again.moved) == (True, False)
        assert (again.ref, again.move, again.moved_at) == (first.ref, first.move, first.moved_at)
        assert [move.move for move in there.history()] == [first.move]
        # It is asked all the same whether the caller may do it.
        with pytest.raises(Conflict, match="names v1, not v2"):
            there.move(gate, 1, who=ana, expect=2)
        with pytest.raises(Forbidden):
            there.move(gate, 1, who=there.who("reader", Role.READER))
        there.policy()
        bo = there.who("promoter", Role.PROMOTER)
        with pytest.raises(PromotionRefused):
            there.move(there.gate(Rules("failed")), 1, who=bo)
        passed = there.move(there.gate(Rules("passed")), 1, who=bo)
        assert passed.moved is False
        assert [move.move for move in there.history()] == [first.move]
        assert there.move(gate, 2, who=bo).moved is True

    @ON_BOTH
    def test_a_policy_that_was_removed_lately_stands_on_the_decision(self, there: Space) -> None:
        gate = there.gate(Rules())
        there.policy()
        there.end_policy()
        moved = there.move(gate, 1)
        (decision,) = there.decisions()
        assert (decision.id, decision.policies, decision.outcome) == (moved.decision, [], "passed")
        assert "was removed on" in decision.notes[0]
        there.move(gate, 2)
        there.policy()
        with pytest.raises(PromotionRefused):
            there.roll_back(there.gate(Rules("failed")), 2)


class TestRules:
    def test_all_that_pass_let_it_move(self, there: Space) -> None:
        there.policy()
        there.policy(f"{there.space}/*")
        moved = there.move(there.gate(Rules()), 1, reason="good")
        (decision,) = there.decisions()
        assert (decision.id, decision.moved, decision.move) == (moved.decision, True, moved.move)
        assert (decision.outcome, decision.reason, decision.ref) == ("passed", "good", moved.ref)
        assert [(one.scope, one.outcome) for one in decision.rules] == [
            (f"{there.space}/*", "passed"),
            (there.name, "passed"),
        ]
        (move,) = there.history()
        assert (move.decision, move.outcome) == (moved.decision, "passed")
        named = there.services.aliases.list(adapter=there.name, who=LOCAL)
        assert [(view.decision, view.move) for view in named if view.alias == there.alias] == [(decision.id, move.move)]

    @pytest.mark.parametrize("result", ["failed", "unknown"])
    def test_one_that_does_not_refuses_it(self, there: Space, result: str) -> None:
        there.move(there.gate({}), 1)
        there.policy()
        with pytest.raises(PromotionRefused) as refused:
            there.move(there.gate(Rules(result)), 2, reason="better")
        (decision,) = there.decisions()
        assert refused.value.message == (
            f"the policies of {there.name}@{there.alias} don't let it move to v2 ({result}: loss on heldout at most 2); see why with: "
            f"adapterctl decisions show {decision.id}"
        )
        assert (decision.outcome, decision.moved, decision.move, decision.from_number) == ("refused", False, None, 1)
        assert (there.named(), len(there.history())) == (1, 1)

    def test_a_refusal_that_is_asked_for_again_is_the_same_decision(self, there: Space) -> None:
        gate = there.gate(rules := Rules("failed"))
        there.policy()
        for _ in range(3):
            with pytest.raises(PromotionRefused):
                there.move(gate, 1)
        assert (len(there.decisions()), rules.judged) == (1, 1)

    def test_a_policy_protects_its_alias_from_writers(self, there: Space) -> None:
        there.policy()
        gate = there.gate(rules := Rules())
        with pytest.raises(Forbidden, match="only a promoter"):
            there.move(gate, 1, who=there.who("writer", Role.WRITER))
        assert rules.judged == 0


class TestOverride:
    def test_an_admin_moves_it_all_the_same_for_ever_on_record(self, there: Space) -> None:
        there.policy()
        moved = there.move(
            there.gate(Rules("failed")), 1, who=there.boss, override=True, reason="the other one is down"
        )
        (decision,) = there.decisions()
        assert (decision.outcome, decision.moved, decision.rules[0].outcome) == ("overridden", True, "failed")
        (move,) = there.history()
        assert (move.outcome, move.decision, move.reason) == ("overridden", moved.decision, "the other one is down")
        (entry,) = there.services.audit.list(
            AuditQuery(action="alias.override", subject=f"{there.name}@{there.alias}"), who=there.boss
        ).items
        assert entry.after == {"number": 1, "decision": moved.decision, "reason": "the other one is down"}

    @pytest.mark.parametrize("who", ["ann", "boss"])
    def test_others_and_no_reason_are_refused(self, there: Space, who: str) -> None:
        there.policy()
        role = Role.ADMIN if who == "boss" else Role.PROMOTER
        with pytest.raises(Forbidden if who == "ann" else Invalid):
            there.move(there.gate(Rules("failed")), 1, who=there.who(who, role), override=True, reason=" ")
        assert there.named() is None

    def test_what_passes_needs_none(self, there: Space) -> None:
        there.policy()
        there.move(there.gate(Rules()), 1, who=there.boss, override=True, reason="to be sure")
        assert there.decisions()[0].outcome == "passed"

    def test_rules_that_can_not_be_judged_hold_only_others_up(self, there: Space) -> None:
        there.policy()

        def silent() -> None:
            raise Unavailable("the store does not answer; try again")

        gate = there.gate(Rules(meanwhile=silent))
        with pytest.raises(Unavailable):
            there.move(gate, 1)
        assert there.decisions() == []
        there.move(gate, 1, who=there.boss, override=True, reason="now")
        (decision,) = there.decisions()
        assert (decision.outcome, decision.rules) == ("overridden", [])
        assert decision.notes == [f"rules of {there.name} were not judged: what they ask could not be read then"]


@ON_BOTH
class TestRollback:
    def test_what_a_decision_let_it_name_needs_no_new_one(self, there: Space) -> None:
        there.policy()
        for number in (1, 2):
            there.move(there.gate(Rules()), number)
        gate = there.gate(rules := Rules("failed"))
        assert there.roll_back(gate, 2).number == 1
        assert (there.decisions()[0].outcome, rules.judged, there.history()[0].outcome) == (
            "rolled_back",
            0,
            "rolled_back",
        )

    def test_a_policy_can_want_it_checked(self, there: Space) -> None:
        there.policy(rollback="checked")
        for number in (1, 2):
            there.move(there.gate(Rules()), number)
        with pytest.raises(PromotionRefused, match="go back to v1"):
            there.roll_back(there.gate(Rules("failed")), 2)
        assert there.roll_back(there.gate(Rules()), 2).number == 1
        assert there.decisions()[0].outcome == "passed"

    def test_what_it_named_before_any_policy_is_judged(self, there: Space) -> None:
        there.move(there.gate({}), 1)
        there.policy()
        there.move(there.gate(Rules()), 2)
        with pytest.raises(PromotionRefused):
            there.roll_back(there.gate(Rules("failed")), 2)
        assert there.named() == 2


class TestRemoval:
    def test_rules_about_versions_are_not_asked(self, there: Space) -> None:
        there.policy()
        there.move(there.gate(Rules()), 1)
        there.remove(there.gate(rules := Rules("failed")))
        assert (there.named(), rules.judged) == (None, 0)
        decision = there.decisions()[0]
        assert (decision.kind, decision.outcome, decision.number, decision.from_number) == ("remove", "passed", None, 1)

    def test_approvals_are_asked_for_the_version_that_is_named(self, there: Space) -> None:
        there.move(there.gate({}), 1)
        there.policy(approvals=1)
        gate = there.gate(FAMILIES)
        with pytest.raises(PromotionRefused, match=r"be removed \(failed: 1 approval\)"):
            there.remove(gate)
        there.remove(gate, who=there.boss, override=True, reason="it is over")
        assert (there.named(), there.history()[0].outcome) == (None, "overridden")


class TestCheck:
    def test_it_decides_and_moves_nothing(self, there: Space) -> None:
        there.policy()
        gate = there.gate(rules := Rules())
        decision = there.check(gate, 1)
        assert (decision.outcome, decision.moved, there.named()) == ("passed", False, None)
        assert there.check(gate, 1) == decision
        moved = there.move(gate, 1)
        assert (rules.judged, moved.decision != decision.id) == (1, True)
        assert there.check(gate, 2).id not in (decision.id, moved.decision)
        assert rules.judged == 2

    def test_it_is_for_promoters(self, there: Space) -> None:
        there.policy()
        gate = there.gate(rules := Rules())
        for who, error in (
            (there.who("writer", Role.WRITER), Forbidden),
            (Principal("x", {"x": Role.ADMIN}), NotFound),
        ):
            with pytest.raises(error):
                there.check(gate, 1, who=who)
        there.check(gate, 1)
        # The answer is known now, but not for them.
        with pytest.raises(Forbidden):
            there.check(gate, 1, who=there.who("writer", Role.WRITER))
        assert rules.judged == 1

    @ON_BOTH
    @pytest.mark.parametrize("change", ["policy", "identity", "alias", "version"])
    def test_with_other_inputs_it_is_judged_again(self, there: Space, change: str) -> None:
        there.policy()
        inputs = [1]
        gate = there.gate(rules := Rules(identity=lambda session, question: inputs[0]))
        there.check(gate, 1)
        if change == "policy":
            there.policy(rollback="checked")
        elif change == "identity":
            inputs[0] = 2
        elif change == "alias":
            there.move(there.gate({}), 2)
        there.check(gate, 2 if change == "version" else 1)
        assert rules.judged == 2

    def test_a_view_that_has_no_time_only_answers_what_is_known(self, there: Space) -> None:
        there.policy()
        gate = there.gate(rules := Rules())
        body = AliasMove(adapter=there.name, alias=there.alias, number=1)
        with pytest.raises(JudgingNeededError):
            gate.move(move=body, who=there.who("ann"), may_judge=False)
        assert (rules.judged, there.decisions()) == (0, [])
        there.check(gate, 1)
        assert gate.move(move=body, who=there.who("ann"), may_judge=False).number == 1


class TestReaders:
    @ON_BOTH
    def test_rows_that_they_may_not_read_stay_hidden(self, there: Space) -> None:
        there.policy()
        data = there.rows()
        request = EvaluationRequest(targets=[EvaluationTarget(ref=f"{there.name}@v1")], data=data)
        gate = there.gate({name: Rules("failed", data=[data], missing=[request]) for name in ("one", "another")})
        with pytest.raises(PromotionRefused) as refused:
            there.move(gate, 1)
        assert f"(failed: {HIDDEN})" in refused.value.message
        assert "heldout" not in refused.value.message
        (decision,) = there.decisions(there.who("reader", Role.READER))
        (rule,) = decision.rules
        assert (rule.rule, rule.outcome, rule.kind, rule.hidden) == (HIDDEN, "failed", "hidden", True)
        assert (rule.numbers, rule.data, decision.missing) == ({}, [], [])
        assert data not in decision.model_dump_json()
        assert there.check(gate, 1).rules == [rule]

    def test_whoever_may_read_them_sees_all(self, there: Space, acting: Callable[..., Client], rows: Path) -> None:
        writer = acting(**{there.space: Role.WRITER})
        data = writer.datasets.add(rows, namespace=there.space).digest
        there.policy()
        request = EvaluationRequest(targets=[EvaluationTarget(ref=f"{there.name}@v1")], data=data)
        with pytest.raises(PromotionRefused, match="unknown: loss on heldout"):
            there.move(there.gate(Rules("unknown", data=[data], missing=[request])), 1)
        (decision,) = there.decisions(there.who("reader", Role.READER))
        assert (decision.rules[0].numbers, decision.rules[0].data, decision.missing) == (
            {"score": 2.5},
            [data],
            [request],
        )

    def test_others_see_no_decision(self, there: Space) -> None:
        there.policy()
        decision = there.check(there.gate(Rules()), 1)
        stranger = Principal("stranger", {"elsewhere": Role.ADMIN})
        with pytest.raises(NotFound):
            there.services.decisions.show(decision.id, who=stranger)
        with pytest.raises(NotFound):
            there.services.decisions.list(adapter=there.name, who=stranger)
        assert there.services.decisions.show(decision.id, who=there.who("reader", Role.READER)) == decision


class TestOverHttp:
    def test_a_refusal_is_a_conflict_with_a_code_of_its_own(self, there: Space, acting: Callable[..., Client]) -> None:
        ann = acting(**{there.space: Role.PROMOTER})
        there.policy(approvals=2)
        with pytest.raises(RefusedPromotion, match=r"failed: 2 approvals") as refused:
            ann.set_alias(there.name, there.alias, 1)
        assert (refused.value.exit_code, refused.value.param) == (4, "alias")
        with pytest.raises(RefusedPromotion):
            ann.promote(f"{there.name}@v1", there.alias)
        with bare_http(ann.config.url, ann.config.token or "") as http:
            (decision,) = get(http, "/decisions", adapter=there.name, alias=there.alias)["items"]
            assert decision["id"] in refused.value.message
            assert get(http, f"/decisions/{decision['id']}") == decision
            body = {"adapter": there.name, "alias": there.alias, "number": 1}
            checked = http.post("/api/v1/promotions/check", json=body)
            assert (checked.status_code, checked.json()) == (200, decision)
            late = http.post("/api/v1/promotions/check", json={**body, "expect": 7})
            assert late.status_code == 409

    def test_pages_are_the_newest_first(self, there: Space, acting: Callable[..., Client]) -> None:
        there.policy()
        ids = [there.check(there.gate(Rules()), number, who=who).id for number in (1, 2) for who in (LOCAL, there.boss)]
        with bare_http(there.world.url, acting(**{there.space: Role.READER}).config.token or "") as http:
            first = get(http, "/decisions", adapter=there.name, alias=there.alias, limit=3)
            rest = get(http, "/decisions", adapter=there.name, alias=there.alias, cursor=first["next"])
        assert [one["id"] for page in (first, rest) for one in page["items"]] == ids[::-1]


def get(http: httpx.Client, path: str, **params: str | int) -> dict[str, object]:
    answer = http.get(f"/api/v1{path}", params=params)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_decisions_count_towards_the_quota(there: Space) -> None:
    there.policy()
    before = there.services.quotas.get(there.space, who=LOCAL)
    there.check(there.gate(Rules()), 1)
    after = there.services.quotas.get(there.space, who=LOCAL)
    assert after != before
    assert there.space not in differing(there.world)


def test_questions_that_no_policy_answers_count_towards_the_quota(there: Space) -> None:
    # There are as many of them as there are names of aliases.
    before = there.services.quotas.get(there.space, who=LOCAL)
    there.check(there.gate({}), 1)
    after = there.services.quotas.get(there.space, who=LOCAL)
    assert after != before
    there.move(there.gate({}), 1)
    assert there.services.quotas.get(there.space, who=LOCAL) == after


def test_a_move_takes_as_many_statements_however_many_rules_there_are(there: Space) -> None:
    there.policy()
    there.who("ann")
    counts = []
    for count in (1, 40):
        gate = there.gate({f"family {n}": Rules() for n in range(count)})
        there.move(gate, 1)
        with sent(there.services.db) as statements:
            there.move(gate, 2)
        counts.append(len(statements))
    assert counts[0] == counts[1] < 60
