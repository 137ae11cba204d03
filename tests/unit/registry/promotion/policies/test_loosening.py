"""How a policy asks for less than the one before it."""

from __future__ import annotations

from typing import Any

import pytest

from registry.promotion.policies.loosening import loosened
from sdk.schemas.policies import PolicyDocument

DATA = "a" * 64
FULL: dict[str, Any] = {
    "alpha": 0.05,
    "approvals": 2,
    "approval_age": "7d",
    "rollback": "checked",
    "forgetting": {"loss_rise_at_most": 0.1, "kl_at_most": 0.2},
    "contamination": {"at_most": 0.0},
    "probe": {"replayed_by": "other_worker"},
    "signed_by": ["KEY"],
}
RULE: dict[str, Any] = {
    "data": DATA,
    "data_name": "held@v1",
    "grader": "house",
    "by": "kind",
    "cluster": "chat",
    "min_rows": 200,
    "scored_by": "other_worker",
    "max_age": "7d",
}
METRICS = {"loss": {"at_most": 2.5, "not_worse_than": 0.1}, "rouge_l": {"at_least": 0.3}}


def policy(rules: list[dict[str, Any]] | None = None, **given: Any) -> PolicyDocument:
    ours = [{**RULE, "metrics": METRICS}] if rules is None else rules
    return PolicyDocument.model_validate({"alias": "production", **FULL, "require": ours, **given})


def texts(after: PolicyDocument | None) -> list[str]:
    found = loosened(policy(), after)
    assert all((" on held@v1" in one["text"]) == (one["data"] == DATA) for one in found)
    return [one["text"] for one in found]


def rules(**given: Any) -> PolicyDocument:
    return policy([{**RULE, "metrics": METRICS, **given}])


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"alpha": 0.1}, "alpha is 0.1, before 0.05"),
        ({"approvals": 1}, "it asks for 1 approval, before for 2"),
        ({"approval_age": "2w"}, "an approval counts for 2w, before for 7d"),
        ({"approval_age": None}, "an approval counts whatever its age, before for 7d"),
        ({"rollback": "allowed"}, "a rollback is no longer checked"),
        ({"forgetting": {"loss_rise_at_most": 0.1}}, "the divergence on general texts may be anything, before 0.2"),
        ({"forgetting": {"loss_rise_at_most": 0.2, "kl_at_most": 0.2}}, "the loss on general texts may rise by 0.2, before 0.1"),
        ({"contamination": None}, "the contaminated share of rows may be anything, before 0"),
        ({"contamination": {"at_most": 0.1}}, "the contaminated share of rows may be 0.1, before 0"),
        ({"probe": None}, "no replay of the probe is asked for"),
        ({"probe": {"replayed_by": "any"}}, "the worker that made a version may replay its probe itself"),
        ({"signed_by": None}, "no signature is asked for"),
        ({"signed_by": ["KEY", "OTHER"]}, "1 more key may sign"),
        ({"approvals": 0, "approval_age": None, "promote": "automatic", "cap": 3}, "the registry moves the alias by itself, which before only people did"),
    ],
)  # fmt: skip
def test_less_of_a_version_is_a_loosening(given: dict[str, Any], text: str) -> None:
    assert text in texts(policy(**given))


@pytest.mark.parametrize(
    "given",
    [
        {"alpha": 0.01},
        {"approvals": 3},
        {"approval_age": "1d"},
        {"forgetting": {"loss_rise_at_most": 0.0, "kl_at_most": 0.1}},
        {"evaluate": "on_ready"},
    ],
)
def test_more_of_a_version_is_none(given: dict[str, Any]) -> None:
    assert texts(policy(**given)) == []


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"grader": None}, "scores of any grader count, before only of house"),
        ({"by": None}, "the groups by kind are not judged"),
        ({"cluster": None}, "rows with the same chat are taken one by one"),
        ({"min_rows": 100}, "100 rows are enough, before 200"),
        ({"chosen_rows": "allowed"}, "the rows may have chosen the version"),
        ({"scored_by": "any"}, "the worker that made a version may score it"),
        ({"max_age": "30d"}, "scores count for 30d, before for 7d"),
        ({"evaluation": {"max_length": 512}}, "the rows are scored otherwise"),
    ],
)
def test_scores_that_count_more_easily_are_a_loosening_of_each_thing_asked(given: dict[str, Any], text: str) -> None:
    assert texts(rules(**given)) == [
        f"loss on held@v1, at most 2.5: {text}",
        f"loss on held@v1, not worse than incumbent by more than 0.1: {text}",
        f"loss on held@v1, not worse than best by more than 0.1: {text}",
        f"rouge_l on held@v1, at least 0.3: {text}",
    ]


def test_scores_that_count_less_easily_are_none() -> None:
    assert texts(rules(min_rows=500, max_age="1d", evaluation={"generate_rows": 500})) == []


@pytest.mark.parametrize(
    ("metrics", "found"),
    [
        ({"loss": METRICS["loss"]}, ["rouge_l on held@v1, at least 0.3: it is no longer asked for"]),
        ({**METRICS, "rouge_l": {"at_least": 0.2}}, ["rouge_l on held@v1, at least 0.3: now 0.2"]),
        ({**METRICS, "rouge_l": {"at_least": 0.4}}, []),
        ({**METRICS, "rouge_l": {"at_least": 0.3, "point": True}}, ["rouge_l on held@v1, at least 0.3: the score itself decides, before the end of its interval"]),
        ({**METRICS, "loss": {"at_most": 3, "not_worse_than": 0.1}}, ["loss on held@v1, at most 2.5: now 3"]),
        ({**METRICS, "loss": {"at_most": 2.5, "not_worse_than": 0.1, "against": ["incumbent", "v1"]}}, ["loss on held@v1, not worse than best by more than 0.1: it is no longer asked for"]),
        ({**METRICS, "loss": {"at_most": 2.5, "not_worse_than": 0.2, "against": ["best"]}}, [
            "loss on held@v1, not worse than incumbent by more than 0.1: it is no longer asked for",
            "loss on held@v1, not worse than best by more than 0.1: now by more than 0.2",
        ]),
    ],
)  # fmt: skip
def test_what_is_asked_of_a_metric_is_compared_one_by_one(metrics: dict[str, Any], found: list[str]) -> None:
    assert texts(rules(metrics=metrics)) == found


def test_another_rule_on_the_same_rows_may_ask_as_much() -> None:
    weak = {**RULE, "metrics": {**METRICS, "rouge_l": {"at_least": 0.1}}}
    strict = {**RULE, "min_rows": 500, "metrics": {"rouge_l": {"at_least": 0.5}}}
    assert texts(policy([weak, strict])) == []
    # But no two rules ask together for what one of them asked.
    halves = [{**RULE, "metrics": METRICS, "min_rows": 100}, {**RULE, "metrics": METRICS, "by": None}]
    assert len(texts(policy(halves))) == 4


def test_other_rows_ask_nothing_of_these() -> None:
    other = {**RULE, "data": "b" * 64, "metrics": METRICS}
    assert len(texts(policy([other]))) == 4


def test_a_removal_is_one_loosening() -> None:
    assert texts(None) == ["it was removed"]


def test_so_many_sentences_are_bounded() -> None:
    metrics = {f"scorer.s{number}": {"at_least": 1.0, "at_most": 9.0} for number in range(20)}
    before = policy([{**RULE, "data": f"{number:064d}", "metrics": metrics} for number in range(3)])
    found = loosened(before, policy())
    assert len(found) == 51
    assert found[-1]["text"] == "and of 70 more things it asks for less"
