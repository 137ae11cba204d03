"""What a client sends of a request: nothing that a registry of the release before would not know, unless it is asked for."""

from __future__ import annotations

from sdk.schemas.jobs import EvaluationRequest


def test_a_date_that_nobody_asked_for_is_not_sent() -> None:
    plain = EvaluationRequest.model_validate({"targets": [{"ref": "a@v1"}], "data": "a" * 64})
    assert "template_date" not in plain.model_dump_json()
    dated = plain.model_copy(update={"template_date": "2026-01-31"})
    assert '"template_date":"2026-01-31"' in dated.model_dump_json()
