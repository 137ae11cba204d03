"""What may be asked of an evaluation, as it is refused before anything is sent."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from sdk.errors import InvalidInput
from sdk.schemas.evaluation import EvaluationSpec, is_score
from sdk.validation import build


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"regex": "("}, r"regex: '\(' can't be looked for, because it is not a regular expression"),
        ({"regex": r"(a)\1"}, "because it looks back, refers back, or uses rare syntax; write it as for Python's re"),
        ({"regex": ""}, "regex can't be empty; give a value"),
        ({"regex": "a" * 1001}, "regex is too long, with 1001 characters; use at most 1000"),
        ({"metrics": "rouge_l,regex"}, "the metric regex needs an expression; give one with regex="),
        ({"metrics": "METEOR"}, "metrics can't contain 'METEOR'; use rouge_l"),
        ({"scorers": "wordnet"}, "wordnet is what the metric meteor looks synonyms up in; ask for that, or give"),
        ({"metrics": ["cider"]}, "cider is computed here as cider_d, which clips"),
        ({"metrics": ["chrf", "loss"]}, "loss is scored without being asked for; leave it out"),
        ({"metrics": "rouge_x"}, "metrics can't contain 'rouge_x'; use rouge_l"),
        ({"scorers": "Mine"}, "scorers.0"),
        ({"scorers": "a b"}, "scorers.0"),
        ({"scorers": "mine.key"}, "scorers.0"),
    ],
)
def test_what_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        build(EvaluationSpec, **options)


def test_blanks_around_a_name_are_taken_off_by_hand_alone() -> None:
    assert build(EvaluationSpec, scorers="mine , other\n").scorers == ["mine", "other"]
    with pytest.raises(ValidationError):
        EvaluationSpec(scorers=["mine\n"])


def test_an_expression_asks_for_its_metric() -> None:
    assert EvaluationSpec().text_metrics == ["rouge_l"]
    assert EvaluationSpec().asked_of_texts == []
    assert EvaluationSpec(regex="a").text_metrics == ["rouge_l", "regex"]
    assert EvaluationSpec(regex="a", metrics=["regex", "bleu"]).text_metrics == ["regex", "bleu"]
    assert EvaluationSpec(scorers=["mine"]).asked_of_texts == ["scorer.mine"]


def test_what_nobody_asks_for_is_not_sent() -> None:
    said = EvaluationSpec().model_dump()
    assert not said.keys() & {"regex", "scorers", "metrics"}


def test_scores_of_a_scorer_are_scores_whatever_they_are_called() -> None:
    assert all(map(is_score, ("scorer.rows", "scorer.tokens", "scorer.mine.bytes", "scorer.s")))
    assert not is_score("scorer.mine_rows")
