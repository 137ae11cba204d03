"""A worker without a scorer that is asked for says so before it fetches anything."""

from __future__ import annotations

from typing import Any

import pytest

from sdk.schemas.job_requests import EvaluationRequest
from workers.kinds.causes import AttemptFailed
from workers.kinds.evaluation import EVALUATION


class Untouched:
    """An attempt of which nothing may be used yet."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} is used")


def test_a_scorer_that_is_not_here_ends_the_attempt_at_once() -> None:
    asked = {"targets": [{"ref": "a@v1"}], "data": "a" * 64, "spec": {"scorers": ["nobody_has_this"]}}
    attempt: Any = Untouched()
    with pytest.raises(
        AttemptFailed, match=r"This worker has no scorer 'nobody_has_this' \(it has none\); install"
    ) as caught:
        EVALUATION.carry_out(attempt, EvaluationRequest.model_validate(asked))
    assert caught.value.reason == "spec"
