"""What a version must not be worse than: what the alias named last, the best that it has named, or a given version."""

from __future__ import annotations

from datetime import timedelta

import pytest
from contract.promotion.judged import (
    CLOSE,
    LOW,
    PLAIN,
    ask_for,
    check,
    delete,
    hand_in,
    hand_scores,
    lines,
    only,
    publish,
    ref,
    row_scores,
    scored,
)
from contract.promotion.scene import Scene
from sqlalchemy import update
from support.payloads import make_payload
from support.people import SEEDS

from registry.db.types import utc_now
from registry.errors import PromotionRefused
from registry.evaluations.models import Evaluation
from registry.promotion.question import JudgingNeededError
from sdk.schemas.decisions import PromotionCheck
from sdk.schemas.jobs import JobSubmission


class TestWhatItIsComparedWith:
    def test_the_first_version_is_not_worse_than_anything(self, scene: Scene, data: str) -> None:
        publish(scene)
        ask_for(scene, data, CLOSE)
        found = check(scene, 1)
        assert lines(found) == [("not_worse", "passed")]
        assert only(found).message == "live has named no version before that it could be worse than"
        assert found.missing == []

    def test_what_the_alias_named_last_counts_though_the_alias_was_removed(self, scene: Scene, data: str) -> None:
        scored(scene, data, 1.0)
        scene.move(1)
        scene.remove()
        scored(scene, data, 1.5)
        ask_for(scene, data, CLOSE)
        found = only(check(scene, 2))
        assert found.rule.endswith("not worse than that of v1 (what it named last) by more than 0.1")
        assert (found.outcome, found.kind) == ("failed", "not_worse")
        assert found.numbers["difference"] == pytest.approx(0.5, abs=0.01)

    def test_an_equal_version_passes_and_the_same_bytes_need_no_scores(self, scene: Scene, data: str) -> None:
        payload = make_payload(next(SEEDS))
        publish(scene, payload=payload)
        scene.move(1)
        ask_for(scene, data, CLOSE)
        found = check(scene, 1)
        assert (only(found).outcome, found.missing) == ("passed", [])
        assert only(found).message == "it has the same bytes as v1 (what it named last)"
        hand_scores(scene, ref(scene), data, row_scores(1.0, seed=1))
        scored(scene, data, 1.0)
        assert only(check(scene, 2)).outcome == "passed"

    def test_a_version_that_is_compared_with_is_scored_if_nobody_has(self, scene: Scene, data: str) -> None:
        publish(scene)
        scene.move(1)
        scored(scene, data)
        ask_for(scene, data, CLOSE)
        found = check(scene, 2)
        assert only(found).message == f"{ref(scene)} has no loss; have it scored: promote with --wait"
        assert [[target.ref for target in one.targets] for one in found.missing] == [[ref(scene)]]

    def test_what_was_measured_otherwise_is_scored_in_one_job(self, scene: Scene, data: str) -> None:
        publish(scene)
        other = PLAIN.model_copy(update={"scoring": 2})
        hand_scores(scene, ref(scene), data, row_scores(1.0), conditions=other)
        scene.move(1)
        scored(scene, data, 1.01)
        ask_for(scene, data, CLOSE)
        found = check(scene, 2)
        assert "no scores that were measured in the same way" in only(found).message
        assert [[target.ref for target in one.targets] for one in found.missing] == [[ref(scene, 2), ref(scene, 1)]]
        scene.services.jobs.submit(submission=JobSubmission(request=found.missing[0]), who=scene.who("will"))
        hand_in(scene, {ref(scene, 1): row_scores(1.0, seed=2), ref(scene, 2): row_scores(1.01, seed=3)})
        assert only(check(scene, 2)).outcome == "passed"

    def test_many_small_losses_add_up_to_one_margin(self, scene: Scene, data: str) -> None:
        ask_for(scene, data, CLOSE)
        for number, loss in enumerate((1.0, 1.06), start=1):
            scored(scene, data, loss, noise=0.01)
            scene.move(number)
        scored(scene, data, 1.12, noise=0.01)
        with pytest.raises(PromotionRefused):
            scene.move(3)
        found = {one.rule.partition(" than that of ")[2][:9]: one for one in check(scene, 3).rules}
        assert {name: one.outcome for name, one in found.items()} == {"v2 (what ": "passed", "v1 (the b": "failed"}

    def test_one_version_that_is_both_is_compared_with_once(self, scene: Scene, data: str) -> None:
        ask_for(scene, data, CLOSE)
        scored(scene, data)
        scene.move(1)
        scored(scene, data)
        found = only(check(scene, 2))
        assert "v1 (what it named last and the best that it has named)" in found.rule

    def test_what_an_admin_forced_is_not_the_best_it_has_named(self, scene: Scene, data: str) -> None:
        ask_for(scene, data, LOW | {"loss": {"at_most": 1.2, "not_worse_than": 0.1, "against": ["best"]}})
        scored(scene, data, 1.1)
        scene.move(1)
        scored(scene, data, 2.0)
        scene.move(2, by="boss", override=True, reason="it is urgent")
        found = check(scene, 2).rules
        assert [one.rule.partition(" than that of ")[2][:2] for one in found if one.kind == "not_worse"] == ["v1"]

    def test_a_version_by_its_number(self, scene: Scene, data: str) -> None:
        for loss in (1.0, 3.0):
            scored(scene, data, loss)
        ask_for(scene, data, {"loss": {"not_worse_than": 0.1, "against": ["v1"]}})
        assert only(check(scene, 2)).outcome == "failed"

    def test_nothing_is_compared_with_what_was_deleted(self, scene: Scene, data: str) -> None:
        scored(scene, data)
        scene.move(1)
        scene.remove()
        delete(scene, 1)
        scored(scene, data)
        ask_for(scene, data, CLOSE)
        found = check(scene, 2)
        assert only(found).outcome == "unknown"
        assert "is not there any more, and the rows of its scores went with it" in only(found).message
        assert found.missing == []

    def test_what_was_deleted_before_anybody_scored_it_is_not_asked_for(self, scene: Scene, data: str) -> None:
        publish(scene)
        scene.move(1)
        scene.remove()
        delete(scene, 1)
        scored(scene, data)
        ask_for(scene, data, CLOSE)
        found = check(scene, 2)
        assert f"{ref(scene)} has no loss, and is not there any more; promote with --override" in only(found).message
        assert found.missing == []

    def test_the_best_stays_the_best_when_it_is_deleted(self, scene: Scene, data: str) -> None:
        ask_for(scene, data, CLOSE)
        for number, loss in enumerate((1.0, 1.06), start=1):
            scored(scene, data, loss, noise=0.01)
            scene.move(number)
        delete(scene, 1)
        scored(scene, data, 1.12, noise=0.01)
        found = check(scene, 3).rules
        assert [one.outcome for one in found] == ["passed", "failed"]
        assert "was deleted with its rows, and by the scores alone it is worse by 0.12" in found[1].message

    @pytest.mark.parametrize(("loss", "outcome"), [(2.07, "passed"), (2.12, "failed")])
    def test_a_deleted_best_is_compared_with_by_a_version_that_was_measured_as_both(
        self, scene: Scene, data: str, loss: float, outcome: str
    ) -> None:
        ask_for(scene, data, CLOSE)
        for number, before in enumerate((1.0, 1.06), start=1):
            scored(scene, data, before, noise=0.01)
            scene.move(number)
        delete(scene, 1)
        # Workers of another release say more of everything.
        otherwise = PLAIN.model_copy(update={"scoring": 2})
        publish(scene)
        for number, now in ((2, 2.06), (3, loss)):
            rows = row_scores(now, noise=0.01, seed=number)
            hand_scores(scene, ref(scene, number), data, rows, conditions=otherwise)
        found = check(scene, 3).rules
        assert [one.outcome for one in found] == ["passed", outcome]
        said = f"by the scores of versions that were measured in both ways it is worse by {loss - 2:.2g}"
        assert f"v1 (the best that it has named) was deleted with its rows, and {said}" in found[1].message

    def test_a_deleted_best_that_nothing_was_measured_beside_is_unknown(self, scene: Scene, data: str) -> None:
        ask_for(scene, data, {"loss": {"not_worse_than": 0.1, "against": ["best"]}})
        scored(scene, data)
        scene.move(1)
        scene.remove()
        delete(scene, 1)
        publish(scene)
        other = PLAIN.model_copy(update={"scoring": 2})
        hand_scores(scene, ref(scene, 2), data, row_scores(9.0), conditions=other)
        found = check(scene, 2)
        assert lines(found) == [("not_worse", "unknown")]
        assert "no version has scores both as it was measured and as" in only(found).message
        assert only(found).message.endswith("promote with --override --reason, or compare with another version")
        assert found.missing == []

    def test_many_scores_are_read_only_where_nobody_waits(
        self, scene: Scene, data: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ask_for(scene, data, CLOSE)
        for number in (1, 2):
            scored(scene, data)
            scene.move(number)
        scored(scene, data)
        monkeypatch.setattr("registry.promotion.gate._MOST_SCORES", 1)
        body = PromotionCheck(adapter=scene.adapter(), alias="live", number=3)
        for _ in range(2):
            with pytest.raises(JudgingNeededError):
                scene.services.gate.check(check=body, who=scene.who("ann"), may_judge=False)
            assert check(scene, 3).outcome == "passed"

    def test_the_best_stays_the_best_when_its_scores_grow_old(self, scene: Scene, data: str) -> None:
        ask_for(scene, data, CLOSE, max_age="7d")
        for number, loss in enumerate((1.0, 1.06), start=1):
            scored(scene, data, loss, noise=0.01)
            scene.move(number)
        with scene.services.db.write() as session:
            old = update(Evaluation).where(Evaluation.label == ref(scene, 1))
            session.execute(old.values(created_at=utc_now() - timedelta(8)))
        scored(scene, data, 1.12, noise=0.01)
        found = check(scene, 3)
        assert lines(found) == [("not_worse", "passed"), ("not_worse", "unknown")]
        assert f"{ref(scene)} has no loss that is not older than 7d" in found.rules[1].message
        assert [[target.ref for target in one.targets] for one in found.missing] == [[ref(scene)]]

    def test_the_best_stays_the_best_when_its_scores_are_those_of_a_maker(self, scene: Scene, data: str) -> None:
        ask_for(scene, data, CLOSE, scored_by="other_worker")
        for number, (loss, by) in enumerate(((1.0, "boss"), (1.06, "bot")), start=1):
            publish(scene)
            hand_scores(scene, ref(scene, number), data, row_scores(loss, noise=0.01, seed=number), by=by)
            scene.move(number)
        # Whoever scored the first makes the third.
        publish(scene, by="boss")
        hand_scores(scene, ref(scene, 3), data, row_scores(1.12, noise=0.01, seed=3))
        found = check(scene, 3)
        assert lines(found) == [("not_worse", "passed"), ("not_worse", "unknown")]
        assert [[target.ref for target in one.targets] for one in found.missing] == [[ref(scene)]]
