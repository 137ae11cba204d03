"""A version of several datasets is found by each of them, in lineage and search, and shows all with their weights."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from click.testing import CliRunner
from contract.lineage.helpers import Maker
from support.registries import World

from sdk.api import versions
from sdk.cli import cli
from sdk.errors import InvalidInput, VerificationFailed
from sdk.schemas.artifacts import DatasetView


@pytest.fixture
def views(maker: Maker) -> list[DatasetView]:
    return [maker.rows(f"{letter}-{uuid.uuid4().hex}.jsonl") for letter in "abc"]


def test_each_is_in_the_record_in_lineage_and_in_search(world: World, maker: Maker, views: list[DatasetView]) -> None:
    name = f"mixed-{uuid.uuid4().hex[:8]}"
    first, *others = views
    maker.train(name, first, maker.adapter(), *others)
    ref = f"{name}@v1"
    dataset = versions.resolve(world.writer.transport, ref).dataset
    assert dataset is not None
    assert dataset.sources is not None
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
        assert f"{views[1].digest[:12]}, weight 2, 1 of 1 rows an epoch" in shown
