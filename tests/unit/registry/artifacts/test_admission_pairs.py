"""What an adapter's tensors and its record name is compared by look-ups, never each with each."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from support.weights import LORA, agreeing

from registry.artifacts.admission.inspection import TensorFacts, WeightFacts
from registry.artifacts.admission.rules import judge
from registry.errors import Verification


def pairs(modules: list[str]) -> list[TensorFacts]:
    """A and B of each module, over weights of (8, 6)."""
    return [
        TensorFacts(f"base_model.model.{module}.lora_{half}.weight", "F32", shape, zero=False)
        for module in modules
        for half, shape in (("A", (2, 6)), ("B", (8, 2)))
    ]


def whole(name: str, *shape: int) -> TensorFacts:
    return TensorFacts(f"base_model.model.{name}", "F32", shape, zero=False)


#: Number to an adapter's tensors, what its record says, and the config of its base.
Adapters = Callable[[int], tuple[list[TensorFacts], dict[str, Any], dict[str, Any]]]

JUDGED: dict[str, Adapters] = {
    "a target for each module": lambda n: (
        pairs([f"l.{i}.q" for i in range(n)]),
        {"target_modules": sorted(f"l.{i}.q" for i in range(min(n, 4000)))},
        {},
    ),
    "rows of tokens": lambda n: (
        [*pairs(["l.0.q"]), *(whole(f"e{i}.token_adapter.trainable_tokens_delta", n, 6) for i in range(n))],
        {"target_modules": ["q"], "trainable_token_indices": list(range(n))},
        {},
    ),
    "modules that are not quantised": lambda n: (
        pairs([f"l.{i}.c_proj" for i in range(n)]),
        {"target_modules": ["c_proj"]},
        {"quantization_config": {"llm_int8_skip_modules": [f"x{i}" for i in range(n)]}},
    ),
    "modules that are saved whole": lambda n: (
        [*pairs(["l.0.q"]), *(whole(f"l.{i}.q.weight", 8, 6) for i in range(n))],
        {"target_modules": ["q"], "modules_to_save": sorted(f"l.{i}.w" for i in range(min(n, 256)))},
        {},
    ),
}


@pytest.mark.parametrize("adapter", JUDGED.values(), ids=JUDGED)
def test_judging_takes_no_longer_than_the_adapter_is_large(adapter: Adapters) -> None:
    def takes_s(count: int) -> float:
        tensors, said, config = adapter(count)
        lora, weights = LORA.model_copy(update=said), WeightFacts.of(tensors)
        given = agreeing(lora, task_type=lora.task_type)
        base = {tensor.name.removeprefix("base_model.model.").replace("lora_A.", ""): [8, 6] for tensor in tensors}
        began = time.process_time()
        with suppress(Verification):
            judge(weights, given, lora=lora, base_tensors=base, base_config=config)
        return time.process_time() - began

    small, large = min(takes_s(100) for _ in range(3)), takes_s(6400)
    # 64 times as many: linear is 64 times the time, quadratic 4096.
    assert large < max(256 * small, 0.1)
