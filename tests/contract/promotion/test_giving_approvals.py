"""How approvals and vetoes are given and withdrawn, and by whom."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from contract.promotion.databases import ON_BOTH
from contract.promotion.scene import Scene
from contract.promotion.votes import give, request_of, version_of
from support.adapters import base_registration, save_adapter
from support.registries import World
from support.usage import differing

from registry.catalog.versions.lifecycle import VersionState
from registry.errors import Conflict, NotFound
from registry.principal import LOCAL, Role
from registry.promotion import generations
from sdk.client import Client
from sdk.errors import NotAllowed
from sdk.errors import NotFound as Missing
from sdk.schemas.approvals import ApprovalView, ApprovalWithdrawal
from sdk.schemas.catalog import VersionMove
from sdk.schemas.policies import PolicyDocument, PolicySetting
from sdk.schemas.wire import Page


@pytest.fixture
def scene(people: World, tmp_path: Path) -> Scene:
    return Scene(people, tmp_path / "scene")


class TestGiving:
    @ON_BOTH
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

    def test_a_page_has_a_bounded_number_of_them(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        number = scene.publish()
        scene.policy(approvals=2)
        given = [give(scene, number, by).id for by in ("ann", "ben")]
        monkeypatch.setattr("registry.promotion.approvals.MOST_SHOWN", 1)
        asked: dict[str, Any] = {"adapter": scene.adapter(), "alias": None, "who": scene.who("will"), "limit": 1000}
        first = scene.services.approvals.list(**asked)
        second = scene.services.approvals.list(**asked, cursor=first.next)
        assert [view.id for page in (first, second) for view in page.items] == given[::-1]

    @ON_BOTH
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
