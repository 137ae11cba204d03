"""Work of planning is in proportion to a base's tensors, whatever they are called: a claimed base may have any."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest
from support.work import calls_of, grows

from sdk.lora.planning.blueprint import blueprint_of
from sdk.lora.planning.job_forecasts import PlannedTraining, evaluation_forecast
from sdk.lora.planning.plan import plan_of
from sdk.lora.planning.recommending import Asked
from sdk.lora.targets import TargetsError, resolve_targets, unfit_targets
from sdk.lora.variants import unfit_options
from sdk.schemas.evaluation import EvaluationSpec
from sdk.schemas.training import TrainingSpec

Shapes = dict[str, list[int]]
#: Llama 3.1 405B but for its layers, of which it has 126.
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 16384,
    "num_attention_heads": 128,
    "num_key_value_heads": 8,
    "intermediate_size": 53248,
    "vocab_size": 128256,
}
STRANGE: dict[str, Any] = {**LLAMA, "model_type": "strange", "num_hidden_layers": 2}


def llama(layers: int) -> tuple[dict[str, Any], Shapes]:
    config = {**LLAMA, "num_hidden_layers": layers}
    return config, {name: list(shape) for name, shape in blueprint_of(config).tensors.items()}


def odd(tensors: int) -> tuple[dict[str, Any], Shapes]:
    """Each in a place of its own."""
    names = (f"m.layers.{n % 7}.p{n}.q{n * 7 % tensors}.w" for n in range(tensors))
    return STRANGE, {f"{name}.{kind}": [8] * axes for name in names for kind, axes in (("weight", 2), ("bias", 1))}


def stacked(tensors: int) -> tuple[dict[str, Any], Shapes]:
    _, shapes = odd(tensors)
    return STRANGE, shapes | {f"m.layers.{n}.s{n}.experts.w{n}": [4, 8, 8] for n in range(tensors)}


def names_of(shapes: Shapes) -> str:
    return ",".join(name.removesuffix(".weight") for name in shapes if name.endswith("w.weight"))


#: By what is sent: the options of a training for a base's shapes.
OPTIONS: dict[str, Callable[[Shapes], dict[str, Any]]] = {
    "int8 preset": lambda shapes: {"quant_type": "int8", "targets": "all-linear"},
    "names": lambda shapes: {"targets": names_of(shapes)} if names_of(shapes) else {},
    "pattern": lambda shapes: {"targets": r".*\.w|.*_proj", "exclude": r".*\.3\..*"},
    "excluded": lambda shapes: {"targets": "all-linear", "exclude": names_of(shapes)[:4000].rpartition(",")[0] or None},
    "layers": lambda shapes: {"targets": "all-linear", "layers_to_transform": "0-1", "use_dora": True},
    "whole": lambda shapes: {
        "targets": "all-linear",
        "method": "lora",
        "modules_to_save": names_of(shapes)[:16000].rpartition(",")[0] or "norm",
    },
    "ranks": lambda shapes: {
        "targets": "all-linear",
        "rank_pattern": ",".join(f"{name}=4" for name in names_of(shapes).split(",")[: len(shapes) // 8]) or None,
    },
    "stacked": lambda shapes: {
        "targets": ",".join(name for name in shapes if "experts" in name) or "all-linear",
        "dropout": 0.0,
    },
}


@pytest.mark.parametrize(("base", "size"), [(llama, 24), (odd, 150), (stacked, 80)], ids=["llama", "odd", "stacked"])
@pytest.mark.parametrize("options", OPTIONS)
def test_submitting_a_training_takes_work_in_proportion_to_the_base(
    base: Callable[[int], tuple[dict[str, Any], Shapes]], size: int, options: str
) -> None:
    def submitting(size: int) -> Callable[[], object]:
        config, shapes = base(size)
        if base is llama and options in ("ranks", "whole"):
            spec = TrainingSpec(targets="all-linear")
        else:
            spec = TrainingSpec.model_validate(OPTIONS[options](shapes))

        def submit() -> None:
            unfit_targets(spec.targets, shapes, model_type=config["model_type"], exclude=spec.exclude)
            unfit_options(spec, shapes, config)
            planned = PlannedTraining(config, shapes, spec)
            planned.forecast()
            planned.forecast(batch_size=1)

        return submit

    assert grows(submitting, size) < 2.6


def test_forecast_of_a_large_model_counts_its_modules_once() -> None:
    config, shapes = llama(126)
    # 882 modules, and what is called for each: its name is split, its shapes are looked up and multiplied.
    spec = TrainingSpec(quant_type="int8", targets="all-linear")
    assert calls_of(lambda: PlannedTraining(config, shapes, spec).forecast()) < 150_000


@pytest.mark.parametrize(("base", "size"), [(llama, 100), (odd, 150)], ids=["llama", "odd"])
def test_plans_and_evaluations_take_work_in_proportion_to_the_base(
    base: Callable[[int], tuple[dict[str, Any], Shapes]], size: int
) -> None:
    def planning(size: int) -> Callable[[], object]:
        config, shapes = base(size)
        asked = Asked(spec=TrainingSpec(targets="all-linear"), gpu="80GB")
        return lambda: plan_of(blueprint_of(config, shapes), asked)

    def evaluating(size: int) -> Callable[[], object]:
        config, shapes = base(size)
        return lambda: evaluation_forecast(config, shapes, EvaluationSpec(), quantized=True)

    assert grows(planning, size) < 2.6
    assert grows(evaluating, size) < 2.6


def test_forecast_after_the_first_doesnt_count_modules_again() -> None:
    planned = PlannedTraining(*llama(126), TrainingSpec(targets="all-linear"))
    planned.forecast()
    assert calls_of(lambda: planned.forecast(batch_size=1)) < 1_000


class TestBudgets:
    """What would take too long is refused, with what to do instead."""

    def test_pattern_on_more_letters_than_any_model_has(self) -> None:
        names = [f"m.layers.0.{'p' * 400}{number}" for number in range(5100)]
        for given in ({"targets": ".*p1"}, {"targets": "all-linear", "exclude": ".*p1"}):
            with pytest.raises(TargetsError, match=r"can't be used \(it takes too long .*\); write module names"):
                resolve_targets(given["targets"], "llama", names, exclude=given.get("exclude"))

    def test_pattern_is_refused_and_not_an_error_of_the_server(self) -> None:
        shapes = {f"m.layers.0.{'p' * 400}{number}.weight": [8, 8] for number in range(5100)}
        said = unfit_targets(".*p1", shapes, model_type="llama")
        assert "write module names" in said

    def test_ranks_on_many_arrangements_of_dots(self) -> None:
        shapes = {f"layers.{number:04}.proj.up.w.weight": [8, 8] for number in range(3000)}
        # Keys as long as a whole name, with their dots in different places: each arrangement is tried for each name.
        length = len("layers.0000.proj.up.w")
        places = [at for at in combinations(range(1, length - 1, 2), 4) if at[0] < 8]
        keys = {"".join("." if at in dots else "a" for at in range(length)) for dots in places}
        pattern = ",".join(f"{key}=2" for key in sorted(keys)[:1000])
        planned = PlannedTraining(STRANGE, shapes, TrainingSpec(targets="all-linear", rank_pattern=pattern))
        assert "rank_pattern takes too long" in str(planned.shapes)

    def test_more_modules_than_any_model_has(self) -> None:
        shapes = {f"{number % 9}.{number:x}.weight": [8, 8] for number in range(16_385)}
        said = unfit_targets("all-linear", shapes, model_type="strange")
        assert "has 16385 linear modules" in said
        planned = PlannedTraining(STRANGE, shapes, TrainingSpec(targets="all-linear"))
        assert "add it again with its own" in str(planned.shapes)

    def test_messages_name_some_of_many_modules(self) -> None:
        config, shapes = odd(2000)
        said = unfit_targets("attention", shapes, model_type=config["model_type"])
        assert len(said) < 1000
        assert "and 1980 more" in said
