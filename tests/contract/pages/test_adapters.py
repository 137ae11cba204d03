"""The pages of adapters, over both databases: what they show to whom, and what their forms do."""

from __future__ import annotations

from contract.pages.conftest import ONE_DATABASE, Opening
from contract.promotion.scene import Scene, floor

from registry.principal import LOCAL, Role
from registry.search.adapters import AdapterSearch
from sdk.schemas.catalog import VersionMove


def promoting(scene: Scene, number: int) -> str:
    return f"/ui/actions/promote?adapter={scene.adapter()}&number={number}"


class TestCatalogue:
    """What stands in the list of adapters."""

    def test_adapters_stand_with_what_runs_the_latest_and_the_last_score(self, scene: Scene, opening: Opening) -> None:
        scene.publish(tags={"language": "python"})
        scene.publish()
        data = scene.rows()
        scene.score(1, data, 0.75)
        scene.move(1, "production")
        page = opening().get("/ui/adapters").text
        for shown in (scene.adapter(), ">v1<", ">v2<", "tiny", "0.7500", "[0.7500, 0.7500]", "loss of v1 on rows-"):
            assert shown in page
        assert "less is better" in page

    def test_filter_is_that_of_search_and_its_error_stands_under_it(self, scene: Scene, opening: Opening) -> None:
        scene.publish(tags={"language": "python"})
        scene.publish("b")
        reader = opening()
        found = reader.get('/ui/adapters?filter=tag[language] = "python"').text
        assert f">{scene.adapter()}<" in found
        assert scene.adapter("b") not in found
        wrong = reader.get("/ui/adapters?filter=rank ~ 8")
        assert 'id="filter-message"' in wrong.text
        assert "rank takes" in wrong.text
        nothing = reader.get("/ui/adapters?filter=rank = 7").text
        assert "adapterctl search &#39;rank = 7&#39;" in nothing

    @ONE_DATABASE
    def test_empty_namespace_says_what_to_type(self, scene: Scene, opening: Opening) -> None:
        page = opening().get(f"/ui/adapters?namespace={scene.space}").text
        assert f"adapterctl push DIR {scene.space}/code-review" in page

    def test_names_of_other_namespaces_appear_nowhere(self, scene: Scene, opening: Opening) -> None:
        other = Scene(scene.world, scene.folder / "other")
        other.publish("secret", tags={"language": "cobol"})
        scene.publish()
        # A version of this namespace that was made from one of the other: by somebody who may see both.
        scene.secrets["both"] = scene.services.tokens.create(
            name=f"{scene.space} both", grants={scene.space: Role.WRITER, other.space: Role.READER}, who=LOCAL
        ).secret
        parent = {"ref": f"{other.adapter('secret')}@v1", "relation": "continued-from"}
        scene.publish("child", by="both", parents=[parent])
        reader = opening()
        addresses = [
            "/ui/adapters",
            "/ui/adapters?filter=name ~ *",
            f"/ui/adapters/{scene.adapter()}",
            f"/ui/adapters/{scene.adapter('child')}",
            f"/ui/history?adapter={scene.adapter()}",
        ]
        for address in addresses:
            page = reader.get(address)
            assert page.status_code == 200
            assert other.space not in page.text
            assert "secret" not in page.text
        assert opening("both").get(f"/ui/adapters/{scene.adapter('child')}").text.count(parent["ref"]) == 1
        for hidden in (f"/ui/adapters/{other.adapter('secret')}", f"/ui/adapters?namespace={other.space}"):
            assert reader.get(hidden).status_code == 404


class TestLastScore:
    """The score that an adapter got last is that of a version which is there."""

    def shown(self, scene: Scene, name: str = "a") -> tuple[int | None, float] | None:
        (entry,) = (
            one
            for one in AdapterSearch(scene.services.db).find(namespace=scene.space, who=LOCAL).page.items
            if one.name == scene.adapter(name)
        )
        return None if entry.score is None else (entry.score.number, entry.score.value)

    def test_hiding_removing_and_restoring_versions_leave_none_behind(self, scene: Scene) -> None:
        data, states = scene.rows(), scene.services.version_states
        for number, loss in ((1, 0.5), (2, 0.25)):
            scene.publish()
            assert self.shown(scene) == (None if number == 1 else (1, 0.5))
            scene.score(number, data, loss)
            assert self.shown(scene) == (number, loss)
        ref = VersionMove(ref=f"{scene.adapter()}@v2")
        states.move(ref, "archived", who=LOCAL)
        assert self.shown(scene) == (1, 0.5)
        states.move(ref, "ready", who=LOCAL)
        assert self.shown(scene) == (2, 0.25)
        states.move(ref, "deleted", who=LOCAL)
        assert self.shown(scene) == (1, 0.5)
        scene.publish()
        states.move(VersionMove(ref=f"{scene.adapter()}@v1"), "deleted", who=LOCAL)
        assert self.shown(scene) is None

    def test_bytes_that_have_scores_bring_them_along(self, scene: Scene) -> None:
        seed = 5_000_000 + hash(scene.space) % 1_000_000
        scene.publish(seed=seed)
        scene.score(1, scene.rows(), 0.5)
        scene.publish("copy", seed=seed)
        assert self.shown(scene, "copy") == (1, 0.5)


class TestAdapter:
    """What the page of an adapter shows."""

    def test_aliases_versions_scores_and_history_stand_there(self, scene: Scene, opening: Opening) -> None:
        for _ in range(2):
            scene.publish()
        data = scene.rows()
        scene.score(1, data, 0.75)
        scene.policy("production", **floor(data))
        scene.move(1, "production", reason="reads <b>well</b>")
        page = opening().get(f"/ui/adapters/{scene.adapter()}").text
        (alias,) = scene.services.aliases.list(adapter=scene.adapter(), who=LOCAL)
        for shown in ("pushed", "reads &lt;b&gt;well&lt;/b&gt;", f"/ui/decisions/{alias.decision}", "0.75", "<circle"):
            assert shown in page
        assert "all rules hold" in opening().get(f"/ui/decisions/{alias.decision}").text

    @ONE_DATABASE
    def test_reader_sees_no_action_and_may_do_none(self, scene: Scene, opening: Opening) -> None:
        scene.publish()
        scene.move(1)
        reader, writer = opening(), opening("will")
        address = f"/ui/adapters/{scene.adapter()}"
        assert "/ui/actions/" not in reader.get(address).text
        assert "/ui/actions/" in writer.get(address).text
        form = writer.form(writer.get(promoting(scene, 1)), "/ui/actions/promote/check")
        own = reader.form(reader.get("/ui/adapters"), "/ui/sign-out").fields["csrf"]
        for action in ("promote", "archive", "restore", "approve"):
            assert reader.get(f"/ui/actions/{action}?adapter={scene.adapter()}&number=1").status_code == 403
        assert reader.send(form, csrf=own).status_code == 403
        # Not for that alias: a policy makes it one of promoters.
        scene.policy("live", **floor(scene.rows()))
        assert "/ui/actions/roll-back" not in writer.get(address).text
        assert writer.send(form, alias="live").status_code == 403


class TestPromotion:
    """A move is looked at, and made by a form that holds what its reader saw."""

    def checked(self, scene: Scene, opening: Opening, number: int, alias: str = "live", by: str = "ann"):
        reader = opening(by)
        form = reader.form(reader.get(promoting(scene, number)), "/ui/actions/promote/check")
        return reader, reader.send(form, alias=alias)

    @ONE_DATABASE
    def test_check_is_shown_first_and_then_it_moves(self, scene: Scene, opening: Opening) -> None:
        scene.publish()
        data = scene.rows()
        scene.score(1, data, 0.5)
        scene.policy(**floor(data))
        reader, shown = self.checked(scene, opening, 1)
        assert "at most 1" in shown.text
        assert scene.named() is None
        done = reader.send(reader.form(shown, "/ui/actions/promote"), reason="good")
        assert done.status_code == 303
        assert scene.named() == 1
        assert f"{scene.adapter()}@live names {scene.adapter()}@v1" in reader.get(done.headers["Location"]).text

    @ONE_DATABASE
    def test_rule_that_does_not_pass_leaves_no_form_but_to_an_admin(self, scene: Scene, opening: Opening) -> None:
        scene.publish()
        data = scene.rows()
        scene.score(1, data, 2.0)
        scene.policy(**floor(data))
        _, shown = self.checked(scene, opening, 1)
        assert "refused" in shown.text
        assert 'action="/ui/actions/promote"' not in shown.text
        boss, shown = self.checked(scene, opening, 1, by="boss")
        form = boss.form(shown, "/ui/actions/promote")
        assert boss.send(form, reason="").status_code == 422
        assert boss.send(form, reason="an emergency").status_code == 303
        assert scene.named() == 1

    def test_lost_compare_and_set_moves_nothing_and_shows_it_as_it_is_now(self, scene: Scene, opening: Opening) -> None:
        for _ in range(3):
            scene.publish()
        scene.move(1)
        reader, shown = self.checked(scene, opening, 2)
        scene.move(3)
        lost = reader.send(reader.form(shown, "/ui/actions/promote"), reason="mine")
        assert lost.status_code == 409
        assert scene.named() == 3
        assert "Nothing has changed" in lost.text
        assert "names v3, not v1" in lost.text
        again = reader.form(lost, "/ui/actions/promote")
        assert again.fields["expect"] == "3"
        assert reader.send(again).status_code == 303
        assert scene.named() == 2

    @ONE_DATABASE
    def test_policy_that_its_reader_has_not_seen_stops_it(self, scene: Scene, opening: Opening) -> None:
        scene.publish()
        reader, shown = self.checked(scene, opening, 1)
        scene.policy(approvals=1)
        lost = reader.send(reader.form(shown, "/ui/actions/promote"))
        assert lost.status_code == 409
        assert "policies of" in lost.text
        assert scene.named() is None

    @ONE_DATABASE
    def test_going_back_shows_where_to_and_stops_if_that_has_changed(self, scene: Scene, opening: Opening) -> None:
        for _ in range(3):
            scene.publish()
        scene.move(1)
        scene.move(2)
        reader, address = opening("ann"), f"/ui/actions/roll-back?adapter={scene.adapter()}&alias=live"
        form = reader.form(reader.get(address), "/ui/actions/roll-back")
        assert (form.fields["number"], form.fields["expect"]) == ("1", "2")
        scene.move(3)
        assert reader.send(form).status_code == 409
        assert scene.named() == 3
        assert reader.send(reader.form(reader.get(address), "/ui/actions/roll-back")).status_code == 303
        assert scene.named() == 2


@ONE_DATABASE
class TestOtherActions:
    """Approving, archiving, restoring."""

    def test_approval_counts_under_the_policies_that_its_giver_saw(self, scene: Scene, opening: Opening) -> None:
        scene.publish()
        scene.policy(approvals=1)
        reader, address = opening("ben"), f"/ui/actions/approve?adapter={scene.adapter()}&number=1"
        form = reader.form(reader.get(address), "/ui/actions/approve")
        scene.policy(approvals=2)
        assert reader.send(form, kind="approve").status_code == 409
        form = reader.form(reader.get(address), "/ui/actions/approve")
        assert reader.send(form, kind="approve", reason="read 40 rows").status_code == 303
        page = reader.get(address)
        assert f"ben approves of {scene.adapter()}@v1 for live" in page.text
        assert reader.send(reader.form(page, "/ui/actions/withdraw")).status_code == 303
        assert "it was withdrawn" in reader.get(address).text

    def test_version_is_archived_and_restored_unless_an_alias_names_it(self, scene: Scene, opening: Opening) -> None:
        for _ in range(2):
            scene.publish()
        reader = opening("will")

        def form(verb: str, number: int = 2):
            page = reader.get(f"/ui/actions/{verb}?adapter={scene.adapter()}&number={number}")
            return reader.form(page, f"/ui/actions/{verb}")

        archiving = form("archive", 1)
        scene.move(1)
        lost = reader.send(archiving)
        assert lost.status_code == 409
        assert "is named by the alias live" in lost.text
        done = reader.send(form("archive"), reason="old")
        assert done.status_code == 303
        assert ">archived<" in reader.get(done.headers["Location"]).text
        assert reader.send(form("restore")).status_code == 303
        assert scene.services.catalog.resolve(f"{scene.adapter()}@latest", who=LOCAL).number == 2
