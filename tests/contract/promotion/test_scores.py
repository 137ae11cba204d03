"""Rules over rows: which scores count, what a version is compared with, and with what confidence."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from contract.promotion.judged import (
    ANSWERED,
    MANY,
    NAMED,
    NAMED_PLAIN,
    PLAIN,
    add_rows,
    check,
    hand_in,
    hand_scores,
    lines,
    new_rows,
    only,
    opened_world,
    publish,
    row_scores,
    rule,
)
from contract.promotion.scene import SPEC, Scene, floor
from sqlalchemy import update
from support.payloads import make_payload
from support.people import SEEDS
from support.registries import World
from support.scored_rows import CONDITIONS
from support.statements import sent

from registry.catalog.versions.lifecycle import VersionState
from registry.db.types import utc_now
from registry.errors import PromotionRefused
from registry.evaluations.models import Evaluation
from registry.principal import LOCAL
from registry.promotion.asking import Wanted, ask
from registry.promotion.rules.known import FAMILIES
from registry.promotion.rules.scores import spec_of
from sdk.schemas.catalog import VersionMove
from sdk.schemas.evaluation import EvaluationSpec
from sdk.schemas.jobs import JobSubmission
from sdk.schemas.promotion import RowsRule

LOW = {"loss": {"at_most": 1.2}}
CLOSE = {"loss": {"not_worse_than": 0.1}}


# What these read of the database is read over both kinds in test_tries.
@pytest.fixture(scope="module", params=["sqlite"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with opened_world(request, tmp_path_factory) as found:
        yield found


@pytest.fixture
def scene(world: World, tmp_path: Path) -> Scene:
    return Scene(world, tmp_path / "scene")


@pytest.fixture
def data(scene: Scene) -> str:
    return add_rows(scene, new_rows())


def ref(scene: Scene, number: int = 1, name: str = "a") -> str:
    return f"{scene.adapter(name)}@v{number}"


def scored(scene: Scene, data: str, loss: float = 1.0, **said: Any) -> int:
    """Publish a version, and have it scored."""
    number = publish(scene)
    hand_scores(scene, ref(scene, number), data, row_scores(loss, seed=next(SEEDS), **said))
    return number


def ask_for(scene: Scene, data: str, metrics: dict[str, Any], **said: Any) -> None:
    """Set the policy of the alias."""
    spec = said.pop("spec", SPEC)
    scene.policy(require=[rule(data, metrics, spec=spec, **said)])


def delete(scene: Scene, number: int) -> None:
    scene.services.version_states.move(VersionMove(ref=ref(scene, number)), VersionState.DELETED, who=LOCAL)


def identity(scene: Scene, number: int) -> Any:
    """The digest of all that a move is judged by."""
    wanted = Wanted(adapter=scene.adapter(), alias="live", kind="set", who=scene.who("ann"), number=number)
    with scene.services.db.read() as session:
        return ask(session, wanted, FAMILIES).inputs_digest


class TestWhichScoresCount:
    def test_scores_that_nobody_made_are_named_so_that_they_can_be_made(self, scene: Scene, data: str) -> None:
        publish(scene)
        (rows,) = scene.services.datasets.list(who=scene.who("will")).items
        ask_for(scene, rows.name, LOW)
        found = check(scene, 1)
        assert only(found).outcome == "unknown"
        assert only(found).message == f"{ref(scene)} has no loss; have it scored: promote with --wait"
        (missing,) = found.missing
        assert [target.ref for target in missing.targets] == [ref(scene)]
        assert (missing.data, missing.data_name) == (data, f"{rows.name}@v1")
        assert (missing.only, missing.again, missing.spec.generate_rows) == (True, True, 0)
        # The request is one that can be made, and its scores are those that were missing.
        services = scene.services
        services.jobs.submit(submission=JobSubmission(request=missing), who=scene.who("will"))
        hand_in(scene, {ref(scene): row_scores()})
        assert lines(check(scene, 1)) == [("floor", "passed")]

    def test_the_first_scores_count_and_later_ones_that_differ_make_it_unknown(self, scene: Scene, data: str) -> None:
        scored(scene, data, 1.5)
        ask_for(scene, data, LOW)
        assert lines(check(scene, 1)) == [("floor", "failed")]
        hand_scores(scene, ref(scene), data, row_scores(1.0))
        found = only(check(scene, 1))
        assert found.outcome == "unknown"
        assert "say 1.5 and" in found.message
        assert "which is more than rounding" in found.message

    def test_later_scores_that_agree_change_nothing(self, scene: Scene, data: str) -> None:
        scored(scene, data)
        ask_for(scene, data, LOW)
        before = only(check(scene, 1))
        for _ in range(2):
            hand_scores(scene, ref(scene), data, row_scores(1.003, seed=next(SEEDS)))
        after = only(check(scene, 1))
        assert after == before
        assert after.outcome == "passed"
        assert after.numbers["score"] == pytest.approx(1.0)

    @pytest.mark.parametrize("other", [{"max_length": 512}, {"loss_on": "all"}])
    def test_scores_that_were_made_otherwise_do_not_count(self, scene: Scene, data: str, other: dict[str, Any]) -> None:
        publish(scene)
        conditions = PLAIN.model_copy(update=other)
        spec = SPEC.model_copy(update=other)
        hand_scores(scene, ref(scene), data, row_scores(), spec=spec, conditions=conditions)
        ask_for(scene, data, LOW)
        found = check(scene, 1)
        assert "has no loss in the way that the policy asks for" in only(found).message
        assert len(found.missing) == 1

    def test_answers_to_fewer_rows_do_not_count(self, scene: Scene, data: str) -> None:
        publish(scene)
        few, conditions = (
            ANSWERED.model_copy(update={"generate_rows": 40}),
            CONDITIONS.model_copy(update={"generated_rows": 40}),
        )
        rows = [row.model_copy(update={} if row.row < 40 else {"scores": {}}) for row in row_scores(rouge=0.9)]
        hand_scores(scene, ref(scene), data, rows, spec=few, conditions=conditions, generated_rows=40.0)
        ask_for(scene, data, {"rouge_l": {"at_least": 0.5}}, spec=ANSWERED)
        assert "has no rouge_l in the way" in only(check(scene, 1)).message
        conditions = CONDITIONS.model_copy(update={"generated_rows": MANY})
        hand_scores(scene, ref(scene), data, row_scores(rouge=0.9), spec=ANSWERED, conditions=conditions)
        assert only(check(scene, 1)).outcome == "passed"

    def test_rows_that_fail_are_not_left_out_of_what_is_judged(self, scene: Scene, data: str) -> None:
        publish(scene)
        rows = row_scores(1.0)
        rows[0] = rows[0].model_copy(update={"loss_sum": None})
        failed = PLAIN.model_copy(update={"failed": {"loss": "a" * 64}})
        ident = hand_scores(scene, ref(scene), data, rows, conditions=failed)
        ask_for(scene, data, LOW)
        found = check(scene, 1)
        assert only(found).outcome == "unknown"
        assert f"has no loss of all rows, see: adapterctl evals show {ident}" in only(found).message
        # To make them again would change nothing.
        assert found.missing == []

    def test_scores_of_another_namespace_do_not_count(self, scene: Scene, world: World, tmp_path: Path) -> None:
        rival, payload, rows = Scene(world, tmp_path / "rival"), make_payload(next(SEEDS)), new_rows()
        data = add_rows(scene, rows)
        add_rows(rival, rows)
        publish(scene, payload=payload)
        publish(rival, payload=payload)
        hand_scores(rival, ref(rival), data, row_scores(0.1))
        ask_for(scene, data, LOW)
        assert only(check(scene, 1)).message.startswith(f"{ref(scene)} has no loss;")
        hand_scores(scene, ref(scene), data, row_scores(2.0))
        found = only(check(scene, 1))
        assert (found.outcome, found.numbers["tries"]) == ("failed", 1)

    def test_whoever_pushed_a_version_does_not_score_it(self, scene: Scene, data: str) -> None:
        publish(scene, by="boss")
        hand_scores(scene, ref(scene), data, row_scores(0.1), by="boss")
        ask_for(scene, data, LOW, scored_by="other_worker")
        found = check(scene, 1)
        assert "that was scored by a token that neither trained nor pushed it" in only(found).message
        assert len(found.missing) == 1
        hand_scores(scene, ref(scene), data, row_scores(1.0))
        assert only(check(scene, 1)).numbers["score"] == pytest.approx(1.0)

    def test_old_scores_do_not_count(self, scene: Scene, data: str) -> None:
        scored(scene, data)
        ask_for(scene, data, LOW, max_age="7d")
        assert only(check(scene, 1)).outcome == "passed"
        known = identity(scene, 1)
        with scene.services.db.write() as session:
            session.execute(
                update(Evaluation).where(Evaluation.dataset_digest == data).values(created_at=utc_now() - timedelta(8))
            )
        found = check(scene, 1)
        assert "has no loss that is not older than 7d" in only(found).message
        assert len(found.missing) == 1
        assert identity(scene, 1) != known

    def test_too_few_rows_decide_nothing(self, scene: Scene) -> None:
        data = add_rows(scene, new_rows(100))
        publish(scene)
        hand_scores(scene, ref(scene), data, row_scores(count=99))
        ask_for(scene, data, LOW)
        found = only(check(scene, 1))
        assert (found.outcome, found.numbers["rows"]) == ("unknown", 99)
        assert found.message.startswith("only 99 of at least 100 rows have the score")

    def test_the_same_inputs_have_the_same_identity_until_something_is_scored(self, scene: Scene, data: str) -> None:
        scored(scene, data)
        ask_for(scene, data, LOW)
        known = identity(scene, 1)
        assert identity(scene, 1) == known
        hand_scores(scene, ref(scene), data, row_scores(1.002, seed=next(SEEDS)))
        again = identity(scene, 1)
        assert again != known
        scored(scene, data, 3.0)
        # More were tried.
        assert identity(scene, 1) not in (known, again)


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
        assert "no scores that were measured alike" in only(found).message
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


def test_slices_are_judged_each_and_the_worst_is_named(scene: Scene) -> None:
    repos = ["good"] * 60 + ["bad"] * 50 + ["few"] * 10
    data = add_rows(scene, new_rows(repo=repos))
    publish(scene)
    rows = [
        row.model_copy(update={"loss_sum": row.loss_sum + 4.0}) if 60 <= row.row < 110 and row.loss_sum else row
        for row in row_scores(0.8)
    ]
    hand_scores(scene, ref(scene), data, rows, spec=NAMED, conditions=NAMED_PLAIN)
    ask_for(scene, data, {"loss": {"at_most": 1.6}}, by="repo", spec=NAMED)
    found = only(check(scene, 1))
    assert found.outcome == "failed", found.message
    assert "of 2 groups by repo the worst is 'bad'" in found.message
    assert "too few rows to judge 'few'" in found.message


def test_rows_of_few_clusters_say_nothing(scene: Scene) -> None:
    data = add_rows(scene, new_rows(chat=[str(row // 10) for row in range(MANY)]))
    publish(scene)
    hand_scores(scene, ref(scene), data, row_scores(), spec=NAMED, conditions=NAMED_PLAIN)
    ask_for(scene, data, LOW, cluster="chat", spec=NAMED)
    found = only(check(scene, 1))
    assert (found.outcome, found.numbers["rows"], found.numbers["clusters"]) == ("unknown", MANY, 12)


def test_a_score_of_all_rows_together_is_taken_as_it_is(scene: Scene, data: str) -> None:
    publish(scene)
    spec = ANSWERED.model_copy(update={"metrics": ["chrf"]})
    rows = [row.model_copy(update={"scores": {"chrf": 30.0}}) for row in row_scores()]
    conditions = CONDITIONS.model_copy(update={"generated_rows": MANY})
    hand_scores(scene, ref(scene), data, rows, spec=spec, conditions=conditions)
    for least, outcome in ((39.0, "passed"), (41.0, "failed")):
        ask_for(scene, data, {"chrf": {"at_least": least, "point": True}}, spec=spec)
        assert only(check(scene, 1)).outcome == outcome


def test_a_removal_asks_nothing_of_rows(scene: Scene, data: str) -> None:
    scored(scene, data)
    scene.move(1)
    ask_for(scene, data, {"loss": {"at_most": 0.1}})
    scene.remove()
    assert scene.named() is None


def test_what_is_missing_is_asked_for_with_the_metrics_of_the_rule() -> None:
    asked = EvaluationSpec(generate_rows=150, max_new_tokens=64, regex="x+")
    metrics = {name: {"at_least": 0.5} for name in ("scorer.style.tone", "scorer.style.length", "chrf", "regex")}
    found = spec_of(RowsRule.model_validate({"data": "a" * 64, "evaluation": asked, "metrics": metrics}))
    assert (found.metrics, found.scorers, found.regex) == (["chrf", "regex"], ["style"], "x+")
    assert (found.generate_rows, found.max_new_tokens) == (150, 64)
    plain = RowsRule.model_validate({"data": "a" * 64, "evaluation": asked, "metrics": {"loss": {"at_most": 1.0}}})
    assert (spec_of(plain).generate_rows, spec_of(plain).metrics, spec_of(plain).regex) == (0, None, None)


def test_rules_over_the_same_rows_read_their_scores_once(scene: Scene, data: str) -> None:
    number = scored(scene, data)
    (one,) = floor(data)["require"]
    wanted = Wanted(scene.adapter(), "live", "set", LOCAL, number=number)
    counts = []
    for many in (1, 11):
        scene.policy(require=[one | {"max_age": f"{n + 1}d"} for n in range(many)])
        with scene.services.db.read() as session, sent(scene.services.db) as statements:
            ask(session, wanted, FAMILIES)
        counts.append(len(statements))
    # Of each rule it is asked whether datasets were removed.
    assert counts[1] - counts[0] == 10
