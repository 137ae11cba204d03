"""How many bytes of an adapter were tried on rows: noted with whatever meets them, and never forgotten."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from contract.promotion.databases import IN_PROCESS_ON_BOTH
from contract.promotion.judged import (
    MANY,
    NAMED,
    NAMED_PLAIN,
    add_rows,
    check,
    hand_scores,
    lines,
    new_rows,
    publish,
    row_scores,
    rule,
)
from contract.promotion.scene import Scene
from sqlalchemy import select
from support.payloads import make_payload
from support.people import SEEDS
from support.registries import World
from support.usage import differing

from registry.catalog.versions.lifecycle import VersionState
from registry.datasets.signatures import SignedDatasets
from registry.errors import Unavailable
from registry.principal import LOCAL
from registry.promotion import generations
from registry.promotion.known_tries import known_tries
from registry.promotion.models import TriedRows
from registry.promotion.shared_rows import ReadRows, RowSharing, known_shares, related
from registry.promotion.tries import count_tries, tried_of
from sdk.schemas.catalog import VersionMove


def tries(scene: Scene, *datasets: str, name: str = "a") -> int:
    with scene.services.db.read() as session:
        return count_tries(session, scene.adapter(name), datasets)


def noted(scene: Scene, name: str = "a") -> dict[str, str]:
    """How each dataset met the adapter's versions."""
    with scene.services.db.read() as session:
        query = select(TriedRows.dataset_digest, TriedRows.how).where(TriedRows.adapter == scene.adapter(name))
        return dict(session.execute(query).all())


def generation(scene: Scene, name: str = "a") -> int:
    with scene.services.db.read() as session:
        return generations.read(session, [scene.adapter(name)])[0]


@IN_PROCESS_ON_BOTH
def test_each_different_bytes_that_rows_have_scored_count_once(scene: Scene) -> None:
    data, other = scene.rows(), scene.rows()
    numbers = [publish(scene) for _ in range(3)]
    for number in [*numbers, numbers[0]]:
        hand_scores(scene, f"{scene.adapter()}@v{number}", data, row_scores(count=24))
    assert (tries(scene, data), tries(scene, other), tries(scene, data, other)) == (3, 0, 3)
    assert scene.space not in differing(scene.world)


def test_new_scores_raise_the_generation_of_their_adapter_alone(scene: Scene) -> None:
    data = scene.rows()
    number = publish(scene)
    publish(scene, "b")
    before = generation(scene), generation(scene, "b")
    hand_scores(scene, f"{scene.adapter()}@v{number}", data, row_scores(count=24))
    assert generation(scene) == before[0] + 1
    assert generation(scene, "b") == before[1]


@IN_PROCESS_ON_BOTH
def test_the_same_bytes_under_two_names_are_tried_under_both_whichever_was_first(scene: Scene) -> None:
    data, payload = scene.rows(), make_payload(next(SEEDS))
    publish(scene, "a", payload=payload)
    publish(scene, "b", payload=payload)
    hand_scores(scene, f"{scene.adapter('a')}@v1", data, row_scores(count=24))
    publish(scene, "c", payload=payload)
    assert [tries(scene, data, name=name) for name in "abc"] == [1, 1, 1]


def test_what_another_namespace_tries_does_not_count(scene: Scene, world: World, tmp_path: Path) -> None:
    rival, payload = Scene(world, tmp_path / "rival"), make_payload(next(SEEDS))
    rows = new_rows(24)
    data = add_rows(scene, rows)
    assert add_rows(rival, rows) == data
    publish(scene, payload=payload)
    publish(rival, payload=payload)
    hand_scores(rival, f"{rival.adapter()}@v1", data, row_scores(count=24))
    assert (tries(scene, data), tries(rival, data)) == (0, 1)
    publish(scene, "later", payload=payload)
    assert tries(scene, data, name="later") == 0


def test_a_deleted_version_stays_counted(scene: Scene) -> None:
    data = scene.rows()
    publish(scene)
    hand_scores(scene, f"{scene.adapter()}@v1", data, row_scores(count=24))
    move = VersionMove(ref=f"{scene.adapter()}@v1")
    scene.services.version_states.move(move, VersionState.DELETED, who=LOCAL)
    assert tries(scene, data) == 1


@pytest.mark.parametrize(
    ("training", "how"),
    [
        ({"eval_data": True, "keep": "best"}, "chosen"),
        ({"eval_data": True, "patience": 2}, "chosen"),
        ({"eval_data": True, "sweep": "3f1c2a9b7d20/4"}, "chosen"),
        ({"eval_data": True}, "scored"),
        ({"test_data": True}, "scored"),
        ({}, None),
    ],
)
def test_rows_that_a_training_was_measured_on_are_tried(
    scene: Scene, training: dict[str, object], how: str | None
) -> None:
    data, trained_on = scene.rows(), scene.rows()
    said = {name: data if name.endswith("_data") else value for name, value in training.items()}
    publish(scene, training=said, dataset={"digest": trained_on, "rows": 24, "supervised_tokens": 24})
    assert noted(scene) == ({} if how is None else {data: how})


@IN_PROCESS_ON_BOTH
def test_rows_that_were_held_out_of_a_dataset_stand_for_all_of_it(scene: Scene) -> None:
    data = scene.rows()
    said = {"holdout": 0.1, "keep": "best", "held_out_rows": 3}
    publish(scene, training=said, dataset={"digest": data, "rows": 21, "supervised_tokens": 24})
    assert noted(scene) == {data: "chosen"}


def test_what_a_pusher_claims_in_place_of_a_digest_is_not_noted(scene: Scene) -> None:
    publish(scene, training={"eval_data": "x" * 5000, "keep": "best"})
    assert noted(scene) == {}


@IN_PROCESS_ON_BOTH
def test_rows_that_chose_a_version_have_chosen_it_though_they_scored_it_first(scene: Scene) -> None:
    data, payload = scene.rows(), make_payload(next(SEEDS))
    publish(scene, payload=payload)
    hand_scores(scene, f"{scene.adapter()}@v1", data, row_scores(count=24))
    assert noted(scene) == {data: "scored"}
    publish(scene, payload=payload, training={"eval_data": data, "keep": "best"})
    assert noted(scene) == {data: "chosen"}
    assert scene.space not in differing(scene.world)


class TestSharedRows:
    @IN_PROCESS_ON_BOTH
    def test_a_dataset_that_shares_more_than_a_tenth_of_its_rows_inherits_what_was_tried(self, scene: Scene) -> None:
        rows = new_rows()
        tried = add_rows(scene, rows)
        much, little = (add_rows(scene, [*rows[:shared], *new_rows(MANY - shared)]) for shared in (13, 12))
        publish(scene)
        hand_scores(scene, f"{scene.adapter()}@v1", tried, row_scores())
        sharing = self._sharing(scene)
        found = {one: sharing.of(ReadRows(one), [ReadRows(tried)])[tried] for one in (much, little)}
        assert [(one.rows, one.shared, one.is_much) for one in found.values()] == [(MANY, 13, True), (MANY, 12, False)]
        with scene.services.db.read() as session:
            asked = dict.fromkeys([tried, much, little])
            assert known_tries(session, scene.adapter(), asked) == {tried: 1, much: 1, little: 0}
            # Of few first rows, those that are shared may be all.
            assert known_tries(session, scene.adapter(), {little: 100}) == {little: 1}
            assert known_shares(session, ReadRows(much), [ReadRows(tried)])[tried] == found[much]

    def test_few_rows_of_many_make_no_family_of_the_larger_one(self, scene: Scene) -> None:
        small = new_rows(24)
        large = [*small, *new_rows(600)]
        few, many = add_rows(scene, small), add_rows(scene, large)
        sharing = self._sharing(scene)
        assert sharing.of(ReadRows(few), [ReadRows(many)])[many].is_much
        assert not sharing.of(ReadRows(many), [ReadRows(few)])[few].is_much

    def test_rows_in_other_columns_are_the_same_rows(self, scene: Scene) -> None:
        rows = new_rows(24)
        renamed = [{"q": row["prompt"], "a": row["completion"]} for row in rows]
        one, other = add_rows(scene, rows), add_rows(scene, renamed)
        columns = ReadRows(other, "prompt=q,completion=a")
        assert self._sharing(scene).of(ReadRows(one), [columns])[other].shared == 24

    @pytest.mark.parametrize("broken", [0, 1])
    def test_rows_that_cannot_be_read_count_as_shared(self, scene: Scene, broken: int) -> None:
        columns = [None, None]
        columns[broken] = "prompt=nothing,completion=there"
        rows, (other, theirs) = ReadRows(scene.rows(), columns[0]), (scene.rows(), columns[1])
        found = self._sharing(scene).of(rows, [ReadRows(other, theirs)])
        assert found[other].is_much is None
        assert found[other].reason == "none of its rows can be read as they were then"
        assert related(found) == {other}

    def test_the_same_dataset_is_compared_with_nothing(self, scene: Scene) -> None:
        data = scene.rows()
        assert self._sharing(scene).of(ReadRows(data), [ReadRows(data, "prompt=prompt")])[data].is_much

    def test_what_takes_long_goes_on_with_the_next_request(self, scene: Scene) -> None:
        data, others = scene.rows(), sorted(scene.rows() for _ in range(3))
        ticks = iter([0.0, 0.0, 61.0, 0.0, 0.0, 1.0])
        sharing = self._sharing(scene, clock=lambda: next(ticks))
        wanted = [ReadRows(one) for one in others]
        with pytest.raises(Unavailable, match="2 datasets on which versions were tried; ask again"):
            sharing.of(ReadRows(data), wanted)
        assert set(sharing.of(ReadRows(data), wanted)) == set(others)

    def _sharing(self, scene: Scene, **given: Callable[[], float]) -> RowSharing:
        services = scene.services
        signed = SignedDatasets(services.db, services.artifacts, services.reading)
        return RowSharing(services.db, signed, services.reading, **given)


def test_tried_datasets_are_listed_with_how_they_are_read(scene: Scene) -> None:
    data = scene.rows()
    publish(scene, training={"eval_data": data, "columns": "prompt=prompt"})
    with scene.services.db.read() as session:
        (found,) = tried_of(session, scene.adapter())
    assert (found.dataset, found.digests) == (data, 1)


@IN_PROCESS_ON_BOTH
def test_a_decision_is_made_by_all_of_it(scene: Scene) -> None:
    repos = ["good"] * 60 + ["few"] * 10 + ["other"] * 50
    data = add_rows(scene, new_rows(repo=repos))
    named: Any = {"spec": NAMED, "conditions": NAMED_PLAIN}
    publish(scene)
    asked = {"loss": {"at_most": 1.4, "not_worse_than": 0.1, "against": ["incumbent", "best", "v1"]}}
    scene.policy(require=[rule(data, asked, by="repo", scored_by="other_worker", max_age="1d", spec=NAMED)])
    for number, loss in enumerate((1.0, 1.02), start=1):
        hand_scores(scene, f"{scene.adapter()}@v{number}", data, row_scores(loss, noise=0.01, seed=number), **named)
        scene.move(number)
        publish(scene, training={"eval_data": data, "keep": "best"} if number == 2 else None)
    hand_scores(scene, f"{scene.adapter()}@v3", data, row_scores(1.0, noise=0.01, seed=3), **named)
    found = check(scene, 3)
    assert lines(found) == [("floor", "unknown"), ("not_worse", "unknown"), ("not_worse", "unknown")]
    assert "was chosen by these rows" in found.rules[0].message
    publish(scene)
    hand_scores(scene, f"{scene.adapter()}@v4", data, row_scores(1.01, noise=0.01, seed=4), **named)
    found = check(scene, 4)
    assert lines(found) == [("floor", "passed"), ("not_worse", "passed"), ("not_worse", "passed")]
    assert [one.numbers["tries"] for one in found.rules] == [4, 4, 4]
    assert check(scene, 4).id == found.id
