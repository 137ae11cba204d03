"""What a client sends of a request: what a field has where nobody set it is left out."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from sdk.schemas.job_requests import EvaluationRequest, MergeRequest


def test_a_date_that_nobody_asked_for_is_not_sent() -> None:
    plain = EvaluationRequest.model_validate({"targets": [{"ref": "a@v1"}], "data": "a" * 64})
    assert "template_date" not in plain.model_dump_json()
    dated = plain.model_copy(update={"template_date": "2026-01-31"})
    assert '"template_date":"2026-01-31"' in dated.model_dump_json()


def test_a_model_in_four_bits_is_no_version() -> None:
    plain = MergeRequest.model_validate({"ref": "a@v1", "spec": {"onto": "original"}})
    assert "quantize" not in plain.model_dump_json()
    packed = {"ref": "a@v1", "spec": {"quantize": "nf4"}}
    assert MergeRequest.model_validate(packed).spec.quantize == "nf4"
    with pytest.raises(ValidationError, match="a model in nf4 can't be registered"):
        MergeRequest.model_validate({**packed, "register_as": "b"})
