"""Approvals count by persons who have the role when the alias moves; a veto stands whatever comes."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from contract.promotion.databases import ON_BOTH
from contract.promotion.scene import Scene
from contract.promotion.votes import check, give, listed, message
from sqlalchemy import delete, update
from support.registries import World

from registry.access.audit.service import AuditQuery
from registry.access.models import Grant, Token
from registry.db.types import utc_now
from registry.errors import Conflict, Forbidden, PromotionRefused
from registry.principal import LOCAL, Role
from registry.promotion.models import Approval


@pytest.fixture
def scene(people: World, tmp_path: Path) -> Scene:
    return Scene(people, tmp_path / "scene")


class TestCounting:
    @ON_BOTH
    def test_an_alias_moves_once_as_many_others_have_approved_as_a_policy_asks(self, scene: Scene) -> None:
        number = scene.publish()
        scene.policy(approvals=2)
        with pytest.raises(PromotionRefused, match="2 approvals"):
            scene.move(number, by="boss")
        view = give(scene, number, "ann", reason="read its worst answers")
        assert (view.void, view.ref, view.reason) == (None, f"{scene.adapter()}@v{number}", "read its worst answers")
        ref = f"{scene.adapter()}@v{number}"
        assert message(scene, number) == (
            f"failed: 1 of 2: {scene.space} ann; ask somebody else to: adapterctl approve {ref} --for live"
        )
        give(scene, number, "ben")
        assert scene.move(number, by="boss").number == number
        (rule,) = check(scene, number).rules
        assert (rule.outcome, rule.numbers) == ("passed", {"approvals": 2, "needed": 2, "vetoes": 0})
        assert listed(scene) == {"ann approve": None, "ben approve": None}

    def test_approvals_are_of_bytes_for_an_alias_of_an_adapter(self, scene: Scene) -> None:
        first, second = scene.publish(), scene.publish()
        scene.policy(approvals=1)
        scene.policy("other", approvals=1)
        give(scene, first, "ann")
        scene.move(first, by="ben")
        for number, alias in ((second, "live"), (first, "other")):
            with pytest.raises(PromotionRefused):
                scene.move(number, alias, by="ben")

    def test_who_moves_sets_back_or_removes_does_not_count(self, scene: Scene) -> None:
        first, second = scene.publish(), scene.publish()
        scene.policy(approvals=1, rollback="checked")
        for number in (first, second):
            give(scene, number, "ann")
            with pytest.raises(PromotionRefused):
                scene.move(number, by="ann")
            assert "ann (who moves an alias doesn't approve it)" in message(scene, number, by="ann")
            scene.move(number, by="ben")
        with pytest.raises(PromotionRefused):
            scene.roll_back(second, by="ann")
        scene.roll_back(second, by="ben")
        with pytest.raises(PromotionRefused):
            scene.remove(by="ann")
        scene.remove(by="ben")
        assert scene.named() is None

    def test_tokens_with_one_name_are_one_person(self, scene: Scene) -> None:
        number = scene.publish()
        scene.policy(approvals=2)
        give(scene, number, "ann")
        made = scene.services.tokens.create(
            name=f"{scene.space.upper()}  Ann",
            grants={scene.space: Role.PROMOTER},
            replace=True,
            overlap_hours=1,
            who=LOCAL,
        )
        scene.secrets["ann again"] = made.secret
        give(scene, number, "ann again")
        said = message(scene, number)
        assert said.startswith("failed: 1 of 2:")
        assert "somebody of the same name has approved it, too" in said
        # Nor does who moves by another token.
        assert "who moves an alias" in message(scene, number, by="ann again")
        assert message(scene, number, by="ann again").startswith("failed: 0 of 2;")

    @ON_BOTH
    def test_approvals_end_with_the_right_to_give_them(self, scene: Scene) -> None:
        number = scene.publish()
        scene.policy(approvals=1)
        past = utc_now() - timedelta(seconds=1)
        no_token = "its token is no longer in use"
        no_role = f"its token no longer has a role in '{scene.space}' that may approve"
        #: Each with what becomes of the token, and of its role; that of a newer release allows nothing here.
        ends: list[tuple[dict[str, Any], dict[str, Any], str]] = [
            ({"revoked_at": past}, {}, no_token),
            ({"expires_at": past}, {}, no_token),
            ({}, {"namespace": f"{scene.space}-elsewhere"}, no_role),
            ({}, {"role": "writer"}, no_role),
            ({}, {"role": "releaser"}, no_role),
        ]
        for place, (of_token, of_role, why) in enumerate(ends):
            name = f"person{place}"
            token = scene.hire(name, Role.PROMOTER)
            given = give(scene, number, name)
            assert check(scene, number).outcome == "passed"
            with scene.services.db.write() as session:
                if of_token:
                    session.execute(update(Token).where(Token.id == token).values(of_token))
                if of_role:
                    session.execute(update(Grant).where(Grant.token_id == token).values(of_role))
            assert listed(scene) == {f"{name} approve": why}
            assert f"not counted: {scene.space} {name} ({why})" in message(scene, number)
            with pytest.raises(PromotionRefused):
                scene.move(number, by="ben")
            scene.services.approvals.withdraw(ident=given.id, who=scene.who("boss"))
            with scene.services.db.write() as session:
                session.execute(delete(Approval).where(Approval.id == given.id))

    def test_a_role_in_all_namespaces_is_one_in_each(self, scene: Scene) -> None:
        number = scene.publish()
        scene.policy(approvals=1)
        made = scene.services.tokens.create(name=f"{scene.space} all", grants={"*": Role.PROMOTER}, who=LOCAL)
        scene.secrets["all"] = made.secret
        give(scene, number, "all")
        assert scene.move(number, by="ann").number == number
        scene.fire("all")

    def test_a_new_version_of_any_policy_ends_them(self, scene: Scene) -> None:
        number = scene.publish()
        scene.policy(approvals=1)
        give(scene, number, "ann")
        scene.policy(approvals=1)
        assert check(scene, number).outcome == "passed"
        scene.policy(scope=f"{scene.space}/*", alpha=0.01)
        assert listed(scene) == {"ann approve": "a policy was changed since"}
        assert message(scene, number).startswith("failed: 0 of 1;")
        again = give(scene, number, "ann")
        assert (again.void, check(scene, number).outcome) == (None, "passed")

    @ON_BOTH
    def test_they_end_after_a_set_time_by_the_clock_of_the_database(self, scene: Scene) -> None:
        number = scene.publish()
        scene.policy(approvals=1, approval_age="2d")
        scene.policy(scope=f"{scene.space}/*", approvals=1, approval_age="3d")
        first = give(scene, number, "ann")
        assert first.expires_at == first.created_at + timedelta(days=2)
        with scene.services.db.write() as session:
            older = Approval.created_at_s - 2.5 * 86400
            session.execute(update(Approval).where(Approval.id == first.id).values(created_at_s=older))
        outcomes = {rule.scope: (rule.outcome, rule.message) for rule in check(scene, number).rules}
        assert outcomes[f"{scene.space}/*"][0] == "passed"
        assert "ann (it is older than 2d)" in outcomes[scene.adapter()][1]
        assert listed(scene) == {"ann approve": "it is older than 2d"}
        again = give(scene, number, "ann")
        assert again.id != first.id
        assert check(scene, number).outcome == "passed"


class TestVetoes:
    @ON_BOTH
    def test_a_veto_stands_until_it_is_withdrawn_whatever_comes(self, scene: Scene) -> None:
        number = scene.publish()
        scene.policy(approvals=1)
        give(scene, number, "ann")
        veto = give(scene, number, "ben", "disapprove", reason="it  leaks\nsecrets")
        ref = f"{scene.adapter()}@v{number}"
        assert message(scene, number) == (
            f"failed: disapproved by {scene.space} ben (it leaks secrets); ask them, or an admin of the namespace, to withdraw "
            f"that: adapterctl disapprove {ref} --for live --withdraw"
        )
        scene.fire("ben")
        scene.policy(approvals=0, alpha=0.01)
        (rule,) = check(scene, number).rules
        assert (rule.rule, rule.outcome) == ("no disapproval", "failed")
        with pytest.raises(PromotionRefused, match="no disapproval"):
            scene.move(number, by="ann")
        with pytest.raises(Forbidden, match="ben has given this; ask them, or an admin"):
            scene.services.approvals.withdraw(ident=veto.id, who=scene.who("ann"))
        # Somebody who is hired again under the name withdraws what they gave.
        scene.hire("ben", Role.PROMOTER)
        for _ in range(2):
            gone = scene.services.approvals.withdraw(ident=veto.id, who=scene.who("ben"))
            assert (gone.void, gone.withdrawn_at is None) == ("it was withdrawn", False)
        scene.move(number, by="ann")
        actions = [
            entry.action for entry in scene.services.audit.list(AuditQuery(subject=scene.adapter()), who=LOCAL).items
        ]
        assert actions.count("alias.withdraw") == 1
        assert {"alias.approve", "alias.disapprove"} <= set(actions)

    def test_admins_withdraw_those_of_others(self, scene: Scene) -> None:
        number = scene.publish()
        scene.policy()
        veto = give(scene, number, "ben", "disapprove")
        scene.services.approvals.withdraw(ident=veto.id, who=scene.who("boss"))
        assert scene.move(number).number == number

    def test_a_veto_takes_the_place_of_one_s_own_approval(self, scene: Scene) -> None:
        number = scene.publish()
        scene.policy(approvals=1)
        give(scene, number, "ann")
        veto = give(scene, number, "ann", "disapprove")
        assert listed(scene) == {"ann approve": "it was withdrawn", "ann disapprove": None}
        with pytest.raises(Conflict, match=r"ann has disapproved .*; withdraw that first with: .* --withdraw"):
            give(scene, number, "ann")
        scene.services.approvals.withdraw(ident=veto.id, who=scene.who("ann"))
        assert message(scene, number).startswith("failed: 0 of 1;")
        give(scene, number, "ann")
        scene.move(number, by="ben")

    def test_a_veto_against_naming_a_version_is_none_against_its_removal(self, scene: Scene) -> None:
        number = scene.publish()
        scene.policy(approvals=1)
        give(scene, number, "ann")
        scene.move(number, by="ben")
        give(scene, number, "cat", "disapprove", reason="it leaks")
        scene.remove(by="ben")
        assert scene.named() is None

    def test_nobody_goes_back_past_a_veto(self, scene: Scene) -> None:
        first, second = scene.publish(), scene.publish()
        scene.policy()
        scene.move(first)
        scene.move(second)
        veto = give(scene, first, "ben", "disapprove", reason="it leaks")
        with pytest.raises(PromotionRefused, match="no disapproval"):
            scene.roll_back(second)
        assert scene.named() == second
        scene.services.approvals.withdraw(ident=veto.id, who=scene.who("ben"))
        assert scene.roll_back(second).number == first

    def test_every_policy_that_asks_for_approvals_says_it(self, scene: Scene) -> None:
        number = scene.publish()
        scene.policy(scope=f"{scene.space}/*", alpha=0.01)
        scene.policy(approvals=1)
        give(scene, number, "ann", "disapprove")
        assert [(rule.scope, rule.outcome) for rule in check(scene, number).rules] == [(scene.adapter(), "failed")]
