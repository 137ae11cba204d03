"""What of the scores that are handed in must be there: all that was asked for by name."""

from __future__ import annotations

from typing import Any

import pytest

from registry.jobs.kinds.evaluation import _differences
from sdk.schemas.evaluation import Conditions, EvaluationReport, EvaluationSpec


def differing(asked: dict[str, Any], names: list[str], **conditions: Any) -> list[str]:
    """Names of what differs between what was asked and scores with these metrics."""
    said = Conditions(
        loss_on="all", max_length=8, generated_rows=2, max_new_tokens=48, tokenizer="a" * 64, **conditions
    )
    report = EvaluationReport(metrics={"loss": 1.0, **dict.fromkeys(names, 1.0)}, precision="float32", conditions=said)
    return [each.field for each in _differences("x", EvaluationSpec.model_validate(asked), None, report)]


@pytest.mark.parametrize(
    ("asked", "metrics", "conditions", "expected"),
    [
        ({"metrics": ["bleu"]}, ["bleu"], {}, []),
        ({"metrics": ["bleu"]}, ["chrf"], {}, ["metrics of x"]),
        ({"metrics": ["bleu"]}, [], {"failed": {"bleu": "b" * 64}}, []),
        ({"regex": "a"}, ["rouge_l", "regex"], {"metrics": {"regex": "a"}}, []),
        ({"regex": "a"}, ["rouge_l", "regex"], {"metrics": {"regex": "b"}}, ["regex of x"]),
        ({"regex": "a"}, ["rouge_l"], {"metrics": {"regex": "a"}}, ["metrics of x"]),
        ({"scorers": ["mine"]}, ["scorer.mine"], {}, []),
        ({"scorers": ["mine"]}, ["scorer.mine.key"], {}, []),
        ({"scorers": ["mine"]}, [], {"failed": {"scorer.mine": "b" * 64}}, []),
        ({"scorers": ["mine"]}, ["scorer.mine2", "scorer.mines.key"], {}, ["metrics of x"]),
    ],
)
def test_what_was_asked_for_is_there(
    asked: dict[str, Any], metrics: list[str], conditions: dict[str, Any], expected: list[str]
) -> None:
    assert differing(asked, metrics, **conditions) == expected
