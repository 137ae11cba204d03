"""Checking a request takes work in proportion to its length, whichever of its fields is filled."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pydantic import TypeAdapter, ValidationError
from support.steps import require_linear

from sdk.schemas.evaluation import EvaluationSpec
from sdk.schemas.job_requests import EvaluationRequest, MergeRequest
from sdk.schemas.training import TrainingSpec
from sdk.schemas.wire import JsonScalar, Wire

NESTED = "(?:(?:(?:(?:){4000}){4000}){4000}){4000}"


def named(count: int, value: str = "") -> str:
    return ",".join(f"layers.{number}.mlp.up_proj{value}" for number in range(count))


FIELDS: dict[str, tuple[type[Wire], Callable[[int], dict[str, object]]]] = {
    "targets": (TrainingSpec, lambda count: {"targets": named(count)}),
    "pattern": (TrainingSpec, lambda count: {"targets": "".join(f"{chr(0x4E00 + one)}*" for one in range(count))}),
    "exclude": (TrainingSpec, lambda count: {"exclude": "|".join(f"m{number}" for number in range(count))}),
    "modules_to_save": (TrainingSpec, lambda count: {"modules_to_save": named(count)}),
    "rank_pattern": (TrainingSpec, lambda count: {"rank_pattern": named(count, "=4")}),
    "alpha_pattern": (TrainingSpec, lambda count: {"rank_pattern": named(count, "=4"), "alpha_pattern": "q_proj=8"}),
    "layers": (TrainingSpec, lambda count: {"layers_to_transform": ",".join(str(2 * one) for one in range(count))}),
    "overlapping": (TrainingSpec, lambda count: {"trainable_token_indices": ",".join(["0-65535"] * count)}),
    "regex": (EvaluationSpec, lambda count: {"regex": "a?" * count}),
    "nested": (EvaluationSpec, lambda count: {"regex": "(?:" * count + "a" + ")?" * count}),
    "metrics": (EvaluationSpec, lambda count: {"metrics": ["bleu"] * count}),
    "scorers": (EvaluationSpec, lambda count: {"scorers": [f"s{number}" for number in range(count)]}),
}


@pytest.mark.parametrize("field", FIELDS)
def test_checking_a_field_takes_work_by_its_length(field: str) -> None:
    kind, values = FIELDS[field]

    def make(count: int) -> Callable[[], object]:
        given = values(count)
        return lambda: kind.model_validate(given)

    require_linear(make, 60)


def test_expression_that_froze_the_server_is_refused() -> None:
    with pytest.raises(ValueError, match="can't be looked for, because it repeats something that can be empty"):
        EvaluationSpec(regex=NESTED)


def test_value_that_is_no_scalar_is_one_fault() -> None:
    # Each fault takes half a kilobyte, and a body may have a hundred thousand.
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(dict[str, JsonScalar]).validate_python({str(number): [] for number in range(100)}, strict=True)
    assert caught.value.error_count() == 100


@pytest.mark.parametrize("value", ["a", 1, 1.5, True, None])
def test_scalars_stay_as_they_are(value: object) -> None:
    found = TypeAdapter(JsonScalar).validate_python(value, strict=True)
    assert (type(found), found) == (type(value), value)


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
