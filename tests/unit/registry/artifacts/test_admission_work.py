"""Admission's work grows as the names of an adapter and of its base do, however a stranger chose them."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from support.steps import require_linear
from support.weights import LORA, agreeing

from registry.artifacts.admission.expected_modules import ConfigTargets, require_complete
from registry.artifacts.admission.expected_shapes import BaseShapes
from registry.artifacts.admission.inspection import TensorFacts, WeightFacts
from registry.artifacts.admission.rules import judge
from registry.errors import Verification
from sdk.schemas.lora_config import LoraConfig

#: Number to the adapted modules, the names of the base's tensors, and the target.
Names = Callable[[int], tuple[list[str], list[str], str]]

HOSTILE: dict[str, Names] = {
    "one expert of each of many lists": lambda n: (
        [f"p{i}.layers.0.experts.0.w" for i in range(n)],
        [f"layers.0.experts.{i}.w.weight" for i in range(n)],
        "experts.0.w",
    ),
    "layers beyond the last": lambda n: (
        [f"l.{i}.q" for i in range(n)],
        [f"l.{i}.q.weight" for i in range(2 * n)],
        "q",
    ),
    "lists of one name": lambda n: (
        [f"r{i}.layers.0.q" for i in range(n)],
        [f"p{i}.layers.0.q.weight" for i in range(n)],
        "q",
    ),
    "lists of one name over one of many layers": lambda n: (
        [f"r{i}.layers.0.q" for i in range(n)],
        [f"layers.{i}.q.weight" for i in range(n)],
        "0.q",
    ),
    "names that end alike": lambda n: ([], [f"p{i}.layers.0.q.weight" for i in range(n)], "q"),
    "experts of many shapes": lambda n: ([], [f"layers.0.experts.{i}.w.weight" for i in range(n)], "q"),
}


@pytest.mark.parametrize("names", HOSTILE.values(), ids=HOSTILE)
def test_the_time_grows_no_faster_than_the_names(names: Names) -> None:
    def takes_s(count: int) -> float:
        adapted, tensors, target = names(count)
        base = BaseShapes({name: [8, at] for at, name in enumerate(tensors)})
        targets = ConfigTargets(agreeing(LORA.model_copy(update={"target_modules": [target]})))
        best = float("inf")
        for _ in range(3):
            # The processor's time, which others at work on the machine do not shift.
            began = time.process_time()
            with suppress(Verification):
                require_complete(adapted, targets, base)
            for number in range(0 if adapted else count):
                with suppress(Verification):
                    base.shapes(f"r{number}.layers.0.q.weight")
                with suppress(Verification):
                    base.stacked(f"r{number}.layers.0.experts")
            best = min(best, time.process_time() - began)
        return best

    small, large = takes_s(250), takes_s(4000)
    # Sixteen times as many: linear is 16 times the time, quadratic 256.
    assert large < max(48 * small, 0.02)


def test_experts_of_more_lists_than_a_model_has_are_refused() -> None:
    adapted, tensors, target = HOSTILE["one expert of each of many lists"](100)
    targets = ConfigTargets(agreeing(LORA.model_copy(update={"target_modules": [target]})))
    with pytest.raises(Verification, match="the same layers or experts of the base in several ways"):
        require_complete(adapted, targets, BaseShapes({name: [8, 6] for name in tensors}))


@pytest.mark.parametrize(
    ("names", "asked", "said"),
    [
        ("names that end alike", lambda base: base.shapes("r.layers.0.q.weight"), "17 tensors whose names end like r"),
        ("experts of many shapes", lambda base: base.stacked("layers.0.experts"), "experts of 17 shapes in the layer"),
    ],
)
def test_more_of_a_name_than_a_model_has_are_refused(
    names: str, asked: Callable[[BaseShapes], list[list[int]]], said: str
) -> None:
    def base(count: int) -> BaseShapes:
        return BaseShapes({name: [8, at] for at, name in enumerate(HOSTILE[names](count)[1])})

    assert asked(base(16))
    with pytest.raises(Verification, match=said):
        asked(base(17))
    assert base(17).shapes("p3.layers.0.q.weight" if "end" in names else "layers.0.experts.3.w.weight") == [[8, 3]]


def named(count: int, name: str, shape: tuple[int, ...] = (4, 8)) -> list[TensorFacts]:
    return [
        TensorFacts(f"base_model.model.{name.format(at)}", "F32", shape, zero=False, exponent=-4) for at in range(count)
    ]


def adapted(count: int, exponent: int = -4) -> list[TensorFacts]:
    halves = (("A", (LORA.rank, 8)), ("B", (8, LORA.rank)))
    return [
        TensorFacts(
            f"base_model.model.layers.{at}.q_proj.lora_{half}.weight", "F32", shape, zero=False, exponent=exponent
        )
        for at in range(count)
        for half, shape in halves
    ]


#: Number to the tensors of an adapter, and what its record says of them.
HOSTILE_FILES: dict[str, Callable[[int], tuple[list[TensorFacts], dict[str, object]]]] = {
    "matrices of a head": lambda n: (
        [*adapted(1), *named(n, "score.{}.weight", (8, 8))],
        {"modules_to_save": ["score"], "task_type": "SEQ_CLS"},
    ),
    "tensors of trained tokens, and tokens": lambda n: (
        [*adapted(1), *named(n, "t{}.token_adapter.trainable_tokens_delta", (n, 8))],
        {"trainable_token_indices": list(range(n))},
    ),
    "modules of trained tokens": lambda n: (
        [*adapted(1), *named(n, "t{}.token_adapter.trainable_tokens_delta", (1, 8))],
        {"trainable_token_indices": {f"t{at}": [1] for at in range(n)}},
    ),
}


@pytest.mark.parametrize("file", HOSTILE_FILES.values(), ids=HOSTILE_FILES)
def test_the_time_grows_no_faster_than_the_tensors_and_the_record(
    file: Callable[[int], tuple[list[TensorFacts], dict[str, object]]],
) -> None:
    def make(count: int) -> Callable[[], object]:
        tensors, said = file(count)
        lora = LoraConfig.model_validate({**LORA.model_dump(), "target_modules": ["q_proj"], **said})
        facts = WeightFacts.of(tensors)
        config = agreeing(lora).model_copy(update={"task_type": lora.task_type})
        return lambda: judge(facts, config, lora=lora, base_tensors={}, base_config={"hidden_size": 8})

    require_linear(make, 40)


def test_the_time_grows_no_faster_than_the_modules_without_effect() -> None:
    def takes_s(count: int) -> float:
        idle = [one._replace(zero=one.name.endswith("B.weight")) for one in adapted(count)]
        facts = WeightFacts.of([*idle, *named(1, "score.weight")])
        lora = LORA.model_copy(update={"target_modules": ["q_proj"], "modules_to_save": ["score"]})
        began = time.process_time()
        judge(facts, agreeing(lora), lora=lora, base_tensors={}, base_config={})
        return time.process_time() - began

    small, large = min(takes_s(250) for _ in range(3)), takes_s(8000)
    # Thirty-two times as many.
    assert large < max(96 * small, 0.02)


def test_many_parameters_of_one_module_are_refused() -> None:
    lora = LORA.model_copy(update={"target_parameters": [f"p{at}" for at in range(100)]})
    with pytest.raises(Verification, match="more than 16 parameters of any module; name those that were trained"):
        judge(WeightFacts.of(adapted(1)), agreeing(lora), lora=lora, base_tensors={}, base_config={})


def test_many_lists_of_layers_are_refused() -> None:
    config = agreeing(LORA).model_copy(update={"layers_pattern": [f"l{at}" for at in range(17)]})
    with pytest.raises(Verification, match="layers_pattern names more than 16 lists of layers"):
        ConfigTargets(config)


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
