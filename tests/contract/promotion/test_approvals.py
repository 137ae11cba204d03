"""Approvals count by persons who have the role when the alias moves, and who neither made the version nor move it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from contract.promotion.scene import Scene
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session
from support.adapters import SPEC, base_registration, digest, save_adapter
from support.people import SEEDS
from support.registries import World
from support.usage import differing
from support.working import Held

from registry.access.audit.service import AuditQuery
from registry.access.models import Grant, Token
from registry.catalog.models import Adapter, Origin, Version
from registry.catalog.versions.lifecycle import VersionState
from registry.db.types import utc_now
from registry.errors import Conflict, Forbidden, NotFound, PromotionRefused
from registry.jobs.models import Attempt, Job
from registry.principal import LOCAL, Role
from registry.promotion import generations
from registry.promotion.makers import Makers, makers_of
from registry.promotion.models import Approval
from sdk.client import Client
from sdk.errors import NotAllowed
from sdk.errors import NotFound as Missing
from sdk.schemas.catalog import VersionMove
from sdk.schemas.job_requests import BaseChoice, TrainingRequest
from sdk.schemas.jobs import JobSubmission
from sdk.schemas.promotion import (
    ApprovalKind,
    ApprovalRequest,
    ApprovalView,
    ApprovalWithdrawal,
    Decision,
    PolicyDocument,
    PolicySetting,
    PromotionCheck,
)
from sdk.schemas.wire import Page

#: Nothing in these depends on the database.
ON_SQLITE = pytest.mark.parametrize("people", ["sqlite"], indirect=True)


@pytest.fixture
def scene(people: World, tmp_path: Path) -> Scene:
    return Scene(people, tmp_path / "scene")


def request_of(adapter: str, number: int, kind: ApprovalKind = "approve", **said: Any) -> ApprovalRequest:
    return ApprovalRequest(adapter=adapter, alias="live", number=number, kind=kind, **said)


def give(
    scene: Scene, number: int, by: str, kind: ApprovalKind = "approve", *, name: str = "a", **said: Any
) -> ApprovalView:
    request = request_of(scene.adapter(name), number, kind, **said)
    return scene.services.approvals.give(request=request, who=scene.who(by))


def version_of(session: Session, scene: Scene, number: int) -> Version:
    return session.scalars(
        select(Version).join(Adapter).where(Adapter.name == scene.adapter(), Version.number == number)
    ).one()


def makers(scene: Scene, number: int) -> Makers:
    with scene.services.db.read() as session:
        return makers_of(session, version_of(session, scene, number).digest, scene.space)


def listed(scene: Scene, by: str = "will") -> dict[str, str | None]:
    """Who has given what, and why it doesn't count."""
    page = scene.services.approvals.list(adapter=scene.adapter(), alias="live", who=scene.who(by))
    return {f"{view.created_by.partition(' ')[2]} {view.kind}": view.void for view in page.items}


def check(scene: Scene, number: int, by: str = "boss") -> Decision:
    asked = PromotionCheck(adapter=scene.adapter(), alias="live", number=number)
    return scene.services.gate.check(check=asked, who=scene.who(by))


def message(scene: Scene, number: int, by: str = "boss") -> str:
    """What a decision says of approvals."""
    (rule,) = check(scene, number, by).rules
    assert rule.kind == "approvals"
    return f"{rule.outcome}: {rule.message}"


class TestCounting:
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


class TestOwnWork:
    def test_who_pushed_a_version_is_refused(self, scene: Scene) -> None:
        number = scene.publish(by="ann")
        scene.policy(approvals=1)
        with pytest.raises(Forbidden, match=r"ann trained or pushed .* nobody approves their own work; ask somebody"):
            give(scene, number, "ann")
        give(scene, number, "ben")
        scene.move(number, by="ann")

    def test_who_pushes_it_later_no_longer_counts(self, scene: Scene) -> None:
        seed = next(SEEDS)
        number = scene.publish(seed=seed)
        scene.policy(approvals=1)
        give(scene, number, "ann")
        assert scene.publish(seed=seed, by="ann") == number
        assert "ann (who trained or pushed a version doesn't approve it)" in message(scene, number)
        assert listed(scene) == {"ann approve": "who trained or pushed a version doesn't approve it"}

    def test_bytes_that_exist_as_two_versions_are_one_person_s_work(self, scene: Scene) -> None:
        seed = next(SEEDS)
        first = scene.publish(by="ann", seed=seed)
        move = VersionMove(ref=f"{scene.adapter()}@v{first}", reason="again")
        scene.services.version_states.move(move, VersionState.DELETED, who=scene.who("boss"))
        second = scene.publish(seed=seed)
        assert second != first
        scene.policy(approvals=1)
        with pytest.raises(NotFound, match="was deleted"):
            give(scene, first, "ben")
        with pytest.raises(Forbidden, match="ann trained or pushed"):
            give(scene, second, "ann")
        give(scene, second, "ben")
        scene.move(second, by="cat")

    def test_a_copy_is_the_work_of_who_pushed_the_original(self, scene: Scene, people: World, tmp_path: Path) -> None:
        """In another namespace only the token tells who it is: the name may be somebody else's there."""
        other = Scene(people, tmp_path / "other")
        grants = {scene.space: Role.PROMOTER, other.space: Role.WRITER}
        both = people.services.tokens.create(name=f"{scene.space} both", grants=grants, who=LOCAL)
        scene.secrets["both"] = other.secrets["both"] = both.secret
        namesake = people.services.tokens.create(
            name=f"{scene.space} ann", grants={other.space: Role.WRITER}, who=LOCAL
        )
        other.secrets["namesake"] = namesake.secret
        seed = next(SEEDS)
        other.publish(by="both", seed=seed)
        other.publish("b", by="namesake", seed=seed)
        copied = scene.publish(seed=seed)
        scene.policy(approvals=1)
        with pytest.raises(Forbidden, match="both trained or pushed"):
            give(scene, copied, "both")
        assert give(scene, copied, "ann").void is None

    def test_who_asked_for_a_training_and_whose_worker_did_it_are_its_makers(
        self, scene: Scene, people: World, tmp_path: Path
    ) -> None:
        data = scene.rows()
        base = BaseChoice(id="tiny", fingerprint=digest("tiny: base"))
        request = TrainingRequest(adapter=scene.adapter(), base=base, data=data, spec=SPEC)
        # An admin may work, too.
        scene.hire("worker", Role.ADMIN)
        first = scene.services.jobs.submit(submission=JobSubmission(request=request), who=scene.who("cat"))
        with closing(Client(people.url, scene.secrets["worker"], cache=tmp_path / "cache")) as client:
            Held.claim(client, tmp_path, name=scene.space).fail()
            job = scene.services.jobs.retry(first.id, who=scene.who("ann"))
            held = Held.claim(client, tmp_path, name=scene.space)
            assert held.job == job.id
            done = held.complete()
        ref = str((done.result or {})["ref"])
        number = int(ref.rpartition("@v")[2])
        scene.policy(approvals=1)
        for name in ("worker", "ann", "cat"):
            with pytest.raises(Forbidden, match=f"{name} trained or pushed"):
                give(scene, number, name)
        assert give(scene, number, "ben").void is None
        # The names stay when attempts and jobs of long ago are forgotten.
        with scene.services.db.write() as session:
            session.execute(delete(Attempt).where(Attempt.job_id == job.id))
        made = makers(scene, number)
        assert made.include(None, f"{scene.space} worker")
        assert made.include(scene.who("ann").owner, "")

    def test_jobs_of_long_chains_and_circles_are_followed(self, scene: Scene) -> None:
        """However a chain of retries and checkpoints was stored, whoever stands in it is found, and it ends."""
        number = scene.publish()
        owners = [f"token:{number:016x}" for number in range(30)]
        with scene.services.db.write() as session:
            pk = version_of(session, scene, number).pk
            for at, owner in enumerate(owners):
                back = f"{scene.space}{(at + 1) % 30}"
                session.add(
                    Job(
                        id=f"{scene.space}{at}",
                        namespace=scene.space,
                        kind="training",
                        state="succeeded",
                        subject="x",
                        request={"from_checkpoint": None if at % 2 else {"job": back, "step": 1}},
                        request_digest="0" * 64,
                        owner=owner,
                        retry_of=back if at % 2 else None,
                        created_by=f"person {at}",
                    )
                )
            session.add(
                Origin(version_pk=pk, job=f"{scene.space}0", attempt=1, metrics={}, libraries={}, created_by="someone")
            )
        made = makers(scene, number)
        assert set(owners) <= made.owners
        assert {f"person {at}" for at in range(30)} <= made.names


@ON_SQLITE
class TestVetoes:
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


class TestGiving:
    def test_what_is_given_again_is_what_stands(self, scene: Scene, people: World) -> None:
        number = scene.publish()
        scene.policy(approvals=1)
        scopes = generations.scopes_of(scene.adapter(), scene.space)
        for kind in ("approve", "disapprove"):
            first = give(scene, number, "ann", kind, reason="once")
            assert give(scene, number, "ann", kind, reason="twice") == first
        with scene.services.db.read() as session:
            before = generations.read(session, scopes)
        scene.services.approvals.withdraw(ident=first.id, who=scene.who("ann"))
        with scene.services.db.read() as session:
            after = generations.read(session, scopes)
        assert (before[:2], before[2] < after[2]) == (after[:2], True)
        assert not {space: sizes for space, sizes in differing(people).items() if space == scene.space}

    def test_nothing_can_be_approved_that_nobody_would_look_at(self, scene: Scene) -> None:
        number = scene.publish()
        with pytest.raises(
            Conflict, match="has no policy, so nobody would look at this; set one with: adapterctl policy"
        ):
            give(scene, number, "ann", "disapprove")
        scene.policy()
        with pytest.raises(Conflict, match=r"no policy of .* asks for approvals, so this one would not count; see"):
            give(scene, number, "ann")
        give(scene, number, "ann", "disapprove")

    def test_what_is_archived_can_be_approved_as_it_can_be_named(self, scene: Scene) -> None:
        number = scene.publish()
        scene.policy(approvals=1)
        move = VersionMove(ref=f"{scene.adapter()}@v{number}", reason="old")
        scene.services.version_states.move(move, VersionState.ARCHIVED, who=scene.who("boss"))
        give(scene, number, "ann")
        scene.move(number, by="ben")
        with pytest.raises(NotFound, match=r"there is no .*@v77"):
            give(scene, 77, "ann")

    @ON_SQLITE
    def test_a_page_has_a_bounded_number_of_them(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        number = scene.publish()
        scene.policy(approvals=2)
        given = [give(scene, number, by).id for by in ("ann", "ben")]
        monkeypatch.setattr("registry.promotion.approvals.MOST_SHOWN", 1)
        asked: dict[str, Any] = {"adapter": scene.adapter(), "alias": None, "who": scene.who("will"), "limit": 1000}
        first = scene.services.approvals.list(**asked)
        second = scene.services.approvals.list(**asked, cursor=first.next)
        assert [view.id for page in (first, second) for view in page.items] == given[::-1]

    def test_in_quarantine_nothing_has_a_number_to_approve(self, scene: Scene) -> None:
        number = scene.publish()
        scene.policy(approvals=1)
        with scene.services.db.write() as session:
            version_of(session, scene, number).state = VersionState.QUARANTINED
        with pytest.raises(NotFound, match="there is no"):
            give(scene, number, "ann")

    def test_without_tokens_nobody_is_told_apart(self, embedded: World, tmp_path: Path) -> None:
        with closing(embedded.client(Role.ADMIN)) as client:
            client.bases.register(base_registration())
            client.push(save_adapter(tmp_path / "one", 77), "approved", base="tiny")
            document = PolicyDocument(alias="live", approvals=1)
            embedded.services.policies.set(setting=PolicySetting(scope="approved", policy=document), who=LOCAL)
            give_it = embedded.services.approvals.give
            with pytest.raises(Conflict, match="counted by token, and this registry asks for none"):
                give_it(request=request_of("approved", 1), who=LOCAL)
            veto = give_it(request=request_of("approved", 1, "disapprove"), who=LOCAL)
            assert veto.created_by == "local"

    def test_over_http_roles_are_asked_for_and_others_see_nothing(
        self, scene: Scene, people: World, acting: Callable[..., Client], space: str
    ) -> None:
        number = scene.publish()
        scene.policy(approvals=1)
        body = request_of(scene.adapter(), number)
        with (
            closing(Client(people.url, scene.secrets["will"])) as writer,
            pytest.raises(NotAllowed, match="promoter") as caught,
        ):
            writer.call("POST", "/approvals", ApprovalView, body=body)
        assert caught.value.exit_code == 5
        stranger = acting(**{space: Role.PROMOTER})
        with pytest.raises(Missing, match="there is no"):
            stranger.call("POST", "/approvals", ApprovalView, body=body)
        with closing(Client(people.url, scene.secrets["ann"])) as ann:
            given = ann.call("POST", "/approvals", ApprovalView, body=body)
            page = ann.call("GET", "/approvals", Page[ApprovalView], params={"adapter": scene.adapter()})
            assert page.items == [given]
        with pytest.raises(Missing):
            stranger.call("GET", "/approvals", Page[ApprovalView], params={"adapter": scene.adapter()})
        with pytest.raises(Missing, match="there is no approval"):
            stranger.call("POST", "/approvals/withdraw", ApprovalView, body=ApprovalWithdrawal(id=given.id))
