"""Lineage upwards and downwards, with what is gone."""

from __future__ import annotations

import uuid
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner
from contract.lineage.helpers import BASE, Maker, Story, keys_of, node_of, tell
from sqlalchemy import select
from support.adapters import base_registration
from support.registries import World

from registry.catalog.models import Adapter, Version
from registry.catalog.versions.lifecycle import VersionState
from registry.principal import Role
from sdk.api import versions
from sdk.cli import cli
from sdk.errors import InvalidInput, InvalidName, InvalidRef, NotFound, VerificationFailed
from sdk.schemas.artifacts import DatasetView
from sdk.schemas.lineage import Lineage


def edges_of(found: Lineage) -> set[tuple[str, str, str]]:
    return {(edge.source, edge.relation, edge.target) for edge in found.edges}


class TestDirections:
    def test_up_is_what_a_version_came_from(self, world: World, story: Story) -> None:
        found = world.writer.lineage(story.mix, direction="up")
        assert (found.root, found.direction, found.truncated, found.unfollowed) == (story.mix, "up", False, 0)
        assert edges_of(found) == {
            (story.mix, "combined-from", story.first),
            (story.mix, "combined-from", story.second),
            (story.second, "continued-from", story.first),
            (story.mix, "trained-over", BASE),
            (story.second, "trained-over", BASE),
            (story.first, "trained-over", BASE),
            (story.first, "trained-on", story.data),
            (story.first, "made-by", f"job:{story.job}"),
            (story.first, "made-by", f"job:{story.again}"),
        }
        weights = {edge.target: edge.weight for edge in found.edges if edge.relation == "combined-from"}
        assert weights == {story.first: 0.25, story.second: 0.75}
        assert {edge.attempt for edge in found.edges if edge.relation == "made-by"} == {1}
        assert node_of(found, f"job:{story.job}")["job_kind"] == "training"
        data = node_of(found, story.data)
        assert (data["name"], data["rows"], data["removed"]) == (story.rows.name, 1, False)
        assert (node_of(found, BASE)["id"], node_of(found, BASE)["revision"]) == ("tiny", "0" * 40)

    def test_down_is_what_came_of_a_version(self, world: World, story: Story) -> None:
        # A merge that nobody has made is none.
        world.writer.submit_merge(story.first).cancel()
        found = world.writer.lineage(story.first, direction="down")
        assert edges_of(found) == {
            (story.second, "continued-from", story.first),
            (story.mix, "combined-from", story.first),
            (story.mix, "combined-from", story.second),
            (story.merged, "merged-from", story.first),
            (story.scores[0], "scored", story.first),
        }
        merged = node_of(found, story.merged)
        assert (merged["onto"], merged["job"]) == ("original", story.merge_job)
        score = node_of(found, story.scores[0])
        assert (score["dataset_name"], score["precision"]) == (story.heldout.name, "float32")
        # What an evaluation took is no score.
        assert score["metrics"] == {"loss": 1.5}
        assert node_of(found, story.second)["aliases"] == ["production"]

    def test_both_are_ancestors_and_descendants_and_nobody_else(self, world: World, story: Story, maker: Maker) -> None:
        # Another version over the same base is neither.
        maker.push(f"{story.name}-stranger")
        found = world.writer.lineage(story.second)
        assert set(keys_of(found)) == {
            story.second,
            story.first,
            story.mix,
            BASE,
            story.data,
            f"job:{story.job}",
            f"job:{story.again}",
        }
        assert keys_of(found)[0] == found.root == story.second
        assert len(keys_of(found)) == len(set(keys_of(found)))

    def test_a_dataset_leads_to_what_used_it(self, world: World, story: Story) -> None:
        by_name = world.writer.lineage(f"data:{story.rows.name}")
        assert by_name == world.writer.lineage(f"data:{story.rows.digest[:12]}")
        assert by_name.root == story.data
        assert (story.first, "trained-on", story.data) in edges_of(by_name)
        assert {story.second, story.mix, story.merged} <= set(keys_of(by_name))
        scored = world.writer.lineage(f"data:{story.heldout.name}", direction="down")
        assert edges_of(scored) == {
            (story.scores[0], "scored-on", scored.root),
            (story.scores[1], "scored-on", scored.root),
            (story.scores[0], "scored", story.first),
            (story.scores[1], "scored", BASE),
        }
        assert keys_of(world.writer.lineage(f"data:{story.rows.name}", direction="up")) == [story.data]

    def test_a_base_leads_to_all_adapters_over_it(self, world: World, story: Story) -> None:
        found = world.writer.lineage("base:tiny", depth=1)
        assert found == world.writer.lineage(BASE, depth=1)
        assert {(ref, "trained-over", BASE) for ref in (story.first, story.second, story.mix)} <= edges_of(found)
        assert (story.scores[1], "scored", BASE) in edges_of(found)
        assert story.scores[0] not in keys_of(found)
        assert found.unfollowed >= 3
        deeper = world.writer.lineage("base:tiny", depth=2)
        assert (story.scores[0], "scored", story.first) in edges_of(deeper)

    def test_the_depth_is_how_far_it_goes(self, world: World, maker: Maker) -> None:
        name = f"chain-{uuid.uuid4().hex[:8]}"
        refs = [maker.push(name)]
        for _ in range(3):
            refs.append(maker.push(name, (refs[-1], "continued-from", None)))
        found = world.writer.lineage(refs[3], direction="up", depth=2)
        assert [key for key in keys_of(found) if key.startswith(name)] == [refs[3], refs[2], refs[1]]
        assert found.unfollowed == 1
        assert world.writer.lineage(refs[3], direction="up", depth=4).unfollowed == 0
        down = world.writer.lineage(refs[0], direction="down")
        assert keys_of(down) == refs

    def test_the_nearest_come_first(self, world: World, story: Story) -> None:
        found = world.writer.lineage(story.second, direction="up")
        assert keys_of(found)[:3] == [story.second, BASE, story.first]


class TestWhatIsGone:
    def test_a_quarantined_child_is_shown_to_nobody_who_does_not_name_it(self, world: World, maker: Maker) -> None:
        name = f"quarantined-{uuid.uuid4().hex[:8]}"
        first = maker.push(name)
        maker.push(name, (first, "continued-from", None))
        with world.services.db.write() as session:
            child = session.scalars(
                select(Version).join(Adapter).where(Adapter.name == name, Version.number == 2)
            ).one()
            child.state, child.number = VersionState.QUARANTINED, None
            ref = f"{name}@sha256:{child.digest}"
        assert keys_of(world.writer.lineage(first, direction="down")) == [first]
        assert keys_of(world.writer.lineage(ref, direction="up")) == [ref, BASE, first]

    def test_a_deleted_parent_stands_where_it_stood(self, world: World, maker: Maker) -> None:
        name = f"gone-{uuid.uuid4().hex[:8]}"
        first = maker.push(name)
        second = maker.push(name, (first, "continued-from", None))
        with closing(world.client(Role.ADMIN)) as admin:
            admin.versions.delete(first)
        found = world.writer.lineage(second, direction="up")
        assert (second, "continued-from", first) in edges_of(found)
        assert node_of(found, first)["state"] == "deleted"
        # What came of it can still be asked, by its number alone.
        assert keys_of(world.writer.lineage(first, direction="down")) == [first, second]
        with pytest.raises(NotFound):
            world.writer.lineage(f"{name}@v3")

    def test_a_version_that_was_deleted_without_a_number_stands_for_no_other(self, world: World, maker: Maker) -> None:
        name = f"refused-{uuid.uuid4().hex[:8]}"
        first, second = maker.push(name), maker.push(name)
        with world.services.db.write() as session:
            refused = select(Version).join(Adapter).where(Adapter.name == name, Version.number == 1)
            version = session.scalars(refused).one()
            version.state, version.number = VersionState.DELETED, None
        assert [keys_of(world.writer.lineage(ref, direction="down")) for ref in (name, second)] == [[second]] * 2
        with pytest.raises(NotFound):
            world.writer.lineage(first)

    def test_a_removed_dataset_is_still_named(self, world: World, maker: Maker) -> None:
        name = f"rowless-{uuid.uuid4().hex[:8]}"
        rows = maker.rows(f"{name}.jsonl")
        maker.train(name, rows, maker.adapter())
        world.writer.datasets.remove(rows.digest)
        for found in (world.writer.lineage(f"data:{rows.name}"), world.writer.lineage(f"data:{rows.digest}")):
            assert (f"{name}@v1", "trained-on", f"data:{rows.digest}") in edges_of(found)
            assert node_of(found, found.root)["removed"] is True
        # The name goes to the next dataset that has it.
        rows_again = maker.rows(f"{name}.jsonl")
        assert world.writer.lineage(f"data:{rows.name}").root == f"data:{rows_again.digest}"


class TestRefusals:
    def test_what_is_not_there_is_not_found(self, world: World) -> None:
        for of, command in (
            ("base:nope", "adapterctl base add"),
            ("data:nope.jsonl", "adapterctl data list"),
            ("nope@v1", "adapterctl list"),
        ):
            with pytest.raises(NotFound, match=command):
                world.writer.lineage(of)

    def test_what_means_nothing_is_refused(self, world: World, story: Story) -> None:
        with pytest.raises(InvalidRef):
            world.writer.lineage(f"{story.name}@v0x:")
        with pytest.raises(InvalidName):
            world.writer.get("Upper")
        with pytest.raises(InvalidInput):
            world.writer.lineage(story.first, depth=33)
        for query in ("of=a%00", "of=data:%00", "of=base:%00", "of=", "", "of=a&direction=left", "of=a&depth=0"):
            answer = world.http.get(f"/api/v1/lineage?{query}")
            assert answer.status_code in (404, 422), answer.text
            assert set(answer.json()["error"]) == {"code", "message", "param"}


def test_people_see_a_tree_within_80_columns(embedded: World, tmp_path: Path) -> None:
    embedded.admin.bases.register(base_registration())
    story = tell(embedded, Maker(embedded, tmp_path), "a-team-with-a-long-name/")
    runner = CliRunner(env={"ADAPTERCTL_URL": embedded.url, "HOME": str(tmp_path)})
    done = runner.invoke(cli, ["lineage", story.first])
    lines = done.stdout.splitlines()
    assert (done.exit_code, done.stderr) == (0, "")
    assert max(map(len, lines)) <= 80
    assert lines[:3] == [f"{story.first}  rank 2, lora", "├─ came from", f"│  ├─ trained over tiny@{'0' * 12}"]
    assert lines[3].startswith(f"│  ├─ trained on {story.rows.name}  ")
    assert f"   ├─ continued as {story.second}  rank 2, production" in lines
    merged = story.merged.removeprefix("merged:")[:12]
    assert f"   ├─ merged into model {merged}  onto original, job {story.merge_job}" in lines
    refused = runner.invoke(cli, ["lineage", "data:nope"])
    assert isinstance(refused.exception, NotFound)


def test_the_answer_is_one_document(world: World, story: Story) -> None:
    answer = world.http.get("/api/v1/lineage", params={"of": story.first, "depth": 1}).json()
    assert set(answer) == {"root", "direction", "depth", "nodes", "edges", "truncated", "unfollowed"}
    assert {node["kind"] for node in answer["nodes"]} == {"version", "base", "dataset", "job", "merged", "evaluation"}


@pytest.fixture
def views(maker: Maker) -> list[DatasetView]:
    return [maker.rows(f"{letter}-{uuid.uuid4().hex}.jsonl") for letter in "abc"]


def test_each_is_in_the_record_in_lineage_and_in_search(world: World, maker: Maker, views: list[DatasetView]) -> None:
    name = f"mixed-{uuid.uuid4().hex[:8]}"
    first, *others = views
    maker.train(name, first, maker.adapter(), *others)
    ref = f"{name}@v1"
    dataset = versions.resolve(world.writer.transport, ref).dataset
    assert [(each.digest, each.weight) for each in dataset.sources] == [
        (view.digest, float(weight)) for weight, view in enumerate(views, start=1)
    ]
    up = world.writer.lineage(ref, direction="up")
    assert {(edge.target, edge.weight) for edge in up.edges if edge.relation == "trained-on"} == {
        (f"data:{view.digest}", float(weight)) for weight, view in enumerate(views, start=1)
    }
    for weight, view in enumerate(views, start=1):
        down = world.writer.lineage(f"data:{view.digest}", direction="down")
        (edge,) = [edge for edge in down.edges if edge.relation == "trained-on"]
        assert (edge.source, edge.weight) == (ref, float(weight))
        for asked in (f"dataset = {view.digest[:12]}", f'dataset = "{view.name}"', f'dataset ~ "{view.name[:20]}*"'):
            assert [brief.ref for brief in world.writer.search(asked)] == [ref]
    # Made again on others, the same bytes are of these too.
    fourth = maker.rows(f"d-{uuid.uuid4().hex}.jsonl")
    assert world.writer.search(f"dataset = {fourth.digest[:12]}") == []


def test_what_a_worker_hands_in_is_of_the_datasets_that_were_asked_for(
    world: World, maker: Maker, views: list[DatasetView], monkeypatch: pytest.MonkeyPatch
) -> None:
    from contract.lineage import helpers

    name = f"mixed-{uuid.uuid4().hex[:8]}"
    whole = helpers.SourceUse
    monkeypatch.setattr(helpers, "SourceUse", lambda **said: whole(**{**said, "weight": 7.0}))
    with pytest.raises((VerificationFailed, InvalidInput), match="sources"):
        maker.train(name, views[0], maker.adapter(), views[1])


def test_show_lists_them(world: World, maker: Maker, views: list[DatasetView], tmp_path: Path) -> None:
    name = f"mixed-{uuid.uuid4().hex[:8]}"
    maker.train(name, views[0], maker.adapter(), views[1])
    if world.url.startswith("local:"):
        shown = CliRunner().invoke(cli, ["show", f"{name}@v1"], env={"ADAPTERCTL_URL": world.url}).output
        assert "2 datasets, 1 rows" in shown
        assert f"{views[1].exact_name or views[1].digest[:12]}, weight 2, 1 of 1 rows an epoch" in shown
