"""The gate's work grows as the names of an adapter and of its base do, however a stranger chose them."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import pytest
from support.weights import LORA, agreeing

from registry.artifacts.admission.expected_modules import ConfigTargets, require_complete
from registry.artifacts.admission.expected_shapes import BaseShapes
from registry.errors import Verification

#: Number to the adapted modules, the names of the base's tensors, and the target.
Names = Callable[[int], tuple[list[str], list[str], str]]

HOSTILE: dict[str, Names] = {
    "one expert of each of many lists": lambda n: (
        [f"p{i}.layers.0.experts.0.w" for i in range(n)],
        [f"layers.0.experts.{i}.w.weight" for i in range(n)],
        "experts.0.w",
    ),
}


@pytest.mark.parametrize("names", HOSTILE.values(), ids=HOSTILE)
def test_the_time_grows_no_faster_than_the_names(names: Names) -> None:
    def takes_s(count: int) -> float:
        adapted, tensors, target = names(count)
        base = BaseShapes({name: [8, 6] for name in tensors})
        targets = ConfigTargets(agreeing(LORA.model_copy(update={"target_modules": [target]})))
        best = float("inf")
        for _ in range(3):
            # The processor's time, which others at work on the machine do not shift.
            began = time.process_time()
            with suppress(Verification):
                require_complete(adapted, targets, base)
            best = min(best, time.process_time() - began)
        return best

    small, large = takes_s(100), takes_s(1600)
    # Sixteen times as many: linear is 16 times the time, quadratic 256.
    assert large < max(80 * small, 0.02)


def test_experts_of_more_lists_than_a_model_has_are_refused() -> None:
    adapted, tensors, target = HOSTILE["one expert of each of many lists"](100)
    targets = ConfigTargets(agreeing(LORA.model_copy(update={"target_modules": [target]})))
    with pytest.raises(Verification, match="the same layers or experts of the base in many ways"):
        require_complete(adapted, targets, BaseShapes({name: [8, 6] for name in tensors}))
