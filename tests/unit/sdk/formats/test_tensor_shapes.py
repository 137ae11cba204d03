from __future__ import annotations

import pytest
from pydantic import ValidationError
from support.adapters import base_registration

from sdk.formats.safetensors import MAX_TENSORS
from sdk.formats.tensor_shapes import shapes_fault


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("a." * 250 + "b", [1], "names a tensor of 501 letters"),
        ("a..b", [1], "names a tensor 'a..b', which no weight file can have"),
        ("", [1], "names a tensor ''"),
        ("a\nb", [1], "which no weight file can have"),
        ("a", [1] * 9, "of a shape that no weight file can have"),
        ("a", [-1], "of a shape that no weight file can have"),
        ("a", [10**19], "of a shape that no weight file can have"),
    ],
)
def test_claims_that_no_weight_file_can_make_true_are_refused(name: str, shape: list[int], said: str) -> None:
    fault = shapes_fault({"model.norm.weight": [4], name: shape})
    assert said in fault
    with pytest.raises(ValidationError, match="tensors"):
        base_registration(tensors={name: shape})


def test_more_tensors_than_a_base_may_have_are_refused() -> None:
    shapes = {f"w{number}": [1] for number in range(MAX_TENSORS)}
    assert shapes_fault(shapes) is None
    assert "a base may have at most" in str(shapes_fault(shapes | {"w": [1]}))
