"""Rows that chose a version don't judge it, and each version that was tried on rows costs confidence."""

from __future__ import annotations

from typing import Any

import pytest
from contract.promotion.judged import (
    ANSWERED,
    LOW,
    MANY,
    NAMED,
    NAMED_PLAIN,
    PLAIN,
    add_rows,
    ask_for,
    check,
    hand_scores,
    new_rows,
    only,
    publish,
    ref,
    row_scores,
    scored,
)
from contract.promotion.scene import SPEC, Scene
from support.payloads import make_payload
from support.people import SEEDS
from support.scored_rows import CONDITIONS


class TestRowsThatChoseIt:
    def _chosen(self, scene: Scene, data: str, name: str = "a", **said: Any) -> int:
        return publish(scene, name, training={"eval_data": data, "keep": "best"}, **said)

    def test_rows_do_not_judge_what_they_chose_unless_that_is_allowed(self, scene: Scene, data: str) -> None:
        self._chosen(scene, data)
        hand_scores(scene, ref(scene), data, row_scores())
        ask_for(scene, data, LOW)
        found = only(check(scene, 1))
        assert found.outcome == "unknown"
        assert found.message.startswith("the version was chosen by these rows and they flatter it; judge it by others")
        ask_for(scene, data, LOW, chosen_rows="allowed")
        assert only(check(scene, 1)).outcome == "passed"

    def test_rows_that_share_many_with_those_that_chose_it_do_not_either(self, scene: Scene) -> None:
        rows = new_rows()
        data, chooser = add_rows(scene, rows), add_rows(scene, [*rows[:40], *new_rows(10)])
        self._chosen(scene, chooser)
        hand_scores(scene, ref(scene), data, row_scores())
        ask_for(scene, data, LOW)
        found = only(check(scene, 1))
        assert f"by those of {chooser[:12]}, which have 40 of {MANY} of these," in found.message
        assert found.data == [data, chooser]

    def test_rows_that_chose_it_and_are_all_that_is_answered_do_not_judge_its_answers(self, scene: Scene) -> None:
        rows = new_rows(MANY)
        data, chooser = add_rows(scene, [*rows, *new_rows(12 * MANY)]), add_rows(scene, rows)
        self._chosen(scene, chooser)
        conditions = CONDITIONS.model_copy(update={"generated_rows": MANY})
        hand_scores(scene, ref(scene), data, row_scores(rouge=0.9), spec=ANSWERED, conditions=conditions)
        ask_for(scene, data, {"rouge_l": {"at_least": 0.5}}, spec=ANSWERED)
        found = only(check(scene, 1))
        assert (found.outcome, found.data) == ("unknown", [data, chooser])
        assert f"which have {MANY} of {MANY} of these," in found.message

    def test_what_was_pulled_and_pushed_again_was_chosen_all_the_same(self, scene: Scene, data: str) -> None:
        payload = make_payload(next(SEEDS))
        self._chosen(scene, data, "trained", payload=payload)
        publish(scene, payload=payload)
        hand_scores(scene, ref(scene), data, row_scores())
        ask_for(scene, data, LOW)
        assert "was chosen by these rows" in only(check(scene, 1)).message

    def test_what_came_from_a_chosen_version_was_chosen_with_it(self, scene: Scene, data: str) -> None:
        self._chosen(scene, data, "trained")
        publish(scene, parents=[{"ref": ref(scene, 1, "trained"), "relation": "combined-from"}])
        hand_scores(scene, ref(scene), data, row_scores())
        ask_for(scene, data, LOW)
        assert "was chosen by these rows" in only(check(scene, 1)).message

    def test_rows_that_only_measured_it_judge_it(self, scene: Scene, data: str) -> None:
        publish(scene, training={"eval_data": data})
        hand_scores(scene, ref(scene), data, row_scores())
        ask_for(scene, data, LOW)
        assert only(check(scene, 1)).outcome == "passed"


class TestManyTries:
    def test_each_version_that_was_tried_costs_confidence(self, scene: Scene) -> None:
        rows = new_rows()
        data, family = add_rows(scene, rows), add_rows(scene, [*rows[:20], *new_rows(100)])
        for _ in range(2):
            scored(scene, data)
        scored(scene, family)
        ask_for(scene, data, {"loss": {"at_most": 1.2}})
        found = only(check(scene, 2))
        assert found.numbers["tries"] == 3
        assert found.numbers["alpha"] == pytest.approx(0.05 * 6 / (3.14159265**2 * 9), rel=1e-6)

    def test_what_was_tried_on_all_rows_that_are_answered_costs_confidence(self, scene: Scene) -> None:
        rows = new_rows(MANY)
        data, tried = add_rows(scene, [*rows, *new_rows(12 * MANY)]), add_rows(scene, rows)
        for _ in range(3):
            scored(scene, tried)
        conditions = CONDITIONS.model_copy(update={"generated_rows": MANY})
        hand_scores(scene, ref(scene, 3), data, row_scores(rouge=0.9), spec=ANSWERED, conditions=conditions)
        ask_for(scene, data, {"rouge_l": {"at_least": 0.5}}, spec=ANSWERED)
        assert only(check(scene, 3)).numbers["tries"] == 3

    def test_rows_that_were_once_read_otherwise_are_the_same_rows(self, scene: Scene) -> None:
        rows = new_rows(MANY)
        further = [{**row, "x": f"{number}", "y": row["prompt"][::-1]} for number, row in enumerate(rows)]
        data, tried = add_rows(scene, rows), add_rows(scene, further)
        for number in (1, 2, 3):
            publish(scene)
            hand_scores(scene, ref(scene, number), tried, row_scores(), spec=NAMED, conditions=NAMED_PLAIN)
        other = {"columns": "prompt=x,completion=y"}
        spec, conditions = SPEC.model_copy(update=other), PLAIN.model_copy(update=other)
        number = publish(scene)
        hand_scores(scene, ref(scene, number), tried, row_scores(), spec=spec, conditions=conditions)
        hand_scores(scene, ref(scene, 1), data, row_scores())
        ask_for(scene, data, LOW)
        assert only(check(scene, 1)).numbers["tries"] == 4
