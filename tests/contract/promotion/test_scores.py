"""Rules over rows: which scores count, and how a rule judges by them."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
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
    hand_in,
    hand_scores,
    lines,
    new_rows,
    only,
    publish,
    ref,
    row_scores,
    scored,
)
from contract.promotion.meanwhile import Meanwhile
from contract.promotion.scene import SPEC, Scene, floor, gate_of
from sqlalchemy import update
from support.payloads import make_payload
from support.people import SEEDS
from support.registries import World
from support.scored_rows import CONDITIONS
from support.statements import sent

from registry.db.types import utc_now
from registry.errors import PromotionRefused
from registry.evaluations.models import Evaluation
from registry.principal import LOCAL
from registry.promotion.asking import Wanted, ask
from registry.promotion.rules.known import FAMILIES
from registry.promotion.rules.scores import spec_of
from sdk.schemas.evaluation import EvaluationSpec
from sdk.schemas.jobs import JobSubmission
from sdk.schemas.policies import RowsRule


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

    def test_scores_that_become_too_old_while_they_are_judged_do_not_count(self, scene: Scene, data: str) -> None:
        scored(scene, data)
        ask_for(scene, data, LOW, max_age="1h")
        until = utc_now() + timedelta(seconds=0.5)
        with scene.services.db.write() as session:
            old = update(Evaluation).where(Evaluation.dataset_digest == data)
            session.execute(old.values(created_at=until - timedelta(hours=1)))
        meanwhile = Meanwhile()
        scene.gate = gate_of(scene.services, {"meanwhile": meanwhile})

        def judge_until_then() -> None:
            while utc_now() <= until:
                time.sleep(0.02)

        with meanwhile.happens(judge_until_then) as happened, pytest.raises(PromotionRefused, match="unknown: loss"):
            scene.move(1)
        assert (bool(happened), scene.named()) == (True, None)

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
