"""What jobs are forecast to take, and what of a training that is too large would fit."""

from __future__ import annotations

from typing import Any

import pytest

from sdk.lora.planning import tables as configs
from sdk.lora.planning.alternatives import alternatives
from sdk.lora.planning.blueprint import blueprint_of
from sdk.lora.planning.job_forecasts import PlannedTraining, evaluation_forecast
from sdk.lora.planning.kernels import MOST_KERNELS
from sdk.lora.planning.plan import plan_of
from sdk.lora.planning.recommending import Asked
from sdk.schemas.evaluation import EvaluationSpec
from sdk.schemas.planning import Forecast
from sdk.schemas.training import TrainingSpec

GB = 10**9


def on_card(config: dict[str, Any], **options: Any) -> Forecast | None:
    return PlannedTraining(config, {}, TrainingSpec(**options)).forecast().card


def sizes(forecast: Forecast | None) -> dict[str, int]:
    return {part.name: part.size_bytes for part in forecast.parts}


@pytest.mark.parametrize("method", ["lora", "qlora"])
@pytest.mark.parametrize("name", ["LLAMA_2_7B", "QWEN3_30B_A3B", "GEMMA_3_27B"])
def test_a_job_takes_what_its_plan_says(name: str, method: Any) -> None:
    config = getattr(configs, name)
    spec = TrainingSpec(method=method, batch_size=2)
    asked = Asked(spec=spec, method=method, as_given=True, gpu="H200", gradient_checkpointing=True)
    assert on_card(config, method=method, batch_size=2) == plan_of(blueprint_of(config), asked).forecast


def test_what_a_machine_without_a_card_needs_is_in_one_place() -> None:
    found = PlannedTraining(configs.LLAMA_2_7B, {}, TrainingSpec()).forecast()
    assert {part.where for part in found.machine.parts} == {"machine"}
    assert found.machine.needed_bytes == sum(sizes(found.machine).values())
    assert "CUDA context" not in sizes(found.machine)
    # An optimiser that only cards have is for no such worker.
    assert PlannedTraining(configs.LLAMA_2_7B, {}, TrainingSpec(optim="adamw_8bit")).forecast().machine is None


def test_a_base_is_counted_as_it_is_stored() -> None:
    for key in ("dtype", "torch_dtype"):
        wide = on_card({**configs.LLAMA_2_7B, key: "float32"}, method="lora")
        assert sizes(wide)["weights"] == 2 * sizes(on_card(configs.LLAMA_2_7B, method="lora"))["weights"]
    # Quantised, what is left of it is in the dtype that is computed in.
    assert on_card({**configs.LLAMA_2_7B, "dtype": "float32"}) == on_card(configs.LLAMA_2_7B)


def test_rows_are_no_longer_than_the_base_has_positions_for() -> None:
    short = {**configs.LLAMA_2_7B, "max_position_embeddings": 256}
    assert on_card(short).max_length == 256
    assert sizes(on_card(short))["logits"] == sizes(on_card(configs.LLAMA_2_7B, max_length=256))["logits"]


def test_kinds_of_rows() -> None:
    sft, dpo, classify = (
        sizes(on_card(configs.LLAMA_2_7B, objective=objective)) for objective in ("sft", "dpo", "classify")
    )
    assert dpo["activations"] > 1.9 * sft["activations"]
    # Of a chunk, whatever there is of them.
    assert dpo["logits"] == sft["logits"]
    assert "logits" not in classify


def test_experts_on_a_cpu_keep_kernels_of_16_bits() -> None:
    moe: dict[str, Any] = configs.QWEN3_30B_A3B
    found = PlannedTraining(moe, {}, TrainingSpec(method="lora")).forecast()
    assert sizes(found.machine)["kernels"] == MOST_KERNELS * 2 * 2**20
    assert "kernels" not in sizes(found.card)
    assert "kernels" not in sizes(
        PlannedTraining({**moe, "dtype": "float32"}, {}, TrainingSpec(method="lora")).forecast().machine
    )


def test_the_shapes_of_files_do_where_the_family_is_not_known() -> None:
    unknown = {**configs.LLAMA_2_7B, "model_type": "mystery"}
    assert "mystery" in (PlannedTraining(unknown, {}, TrainingSpec()).forecast().unknown or "")
    shapes = {name: list(shape) for name, shape in blueprint_of(configs.LLAMA_2_7B).tensors.items()}
    found = PlannedTraining(unknown, shapes, TrainingSpec()).forecast()
    assert found.card is not None
    assert found.unknown is None
    # Of packed bytes no shape is known.
    packed = {
        f"model.layers.0.mlp.up_proj.weight{end}": [8, 1]
        for end in ("", ".absmax", ".quant_map", ".quant_state.bitsandbytes__nf4")
    }
    assert PlannedTraining(unknown, packed, TrainingSpec()).forecast().card is None


def test_an_evaluation_trains_nothing() -> None:
    found = evaluation_forecast(configs.LLAMA_2_7B, {}, EvaluationSpec(), quantized=True)
    assert set(sizes(found.card)) == {
        "weights in 4 bits", "weights in 16 bits", "activations", "logits", "widened matrix", "CUDA context", "process"
    }  # fmt: skip
    assert sizes(found.card)["logits"] == 8 * 4 * 1024 * 32000
    # Short rows or not, general texts are read.
    short = evaluation_forecast(configs.LLAMA_2_7B, {}, EvaluationSpec(batch_size=1, max_length=64), quantized=True)
    assert sizes(short.card)["logits"] == 8 * 16 * 12 * 32000
    wide = evaluation_forecast(configs.LLAMA_2_7B, {}, EvaluationSpec(), quantized=False)
    assert sizes(wide.card)["weights"] == 2 * 6_738_415_616


class TestAlternatives:
    def said(self, available_bytes: float, **options: Any) -> list[str]:
        spec = TrainingSpec(**options)
        found = alternatives(
            PlannedTraining(configs.LLAMA_2_7B, {}, spec),
            available_bytes=int(available_bytes),
            place="cuda",
            batch_size=spec.batch_size,
        )
        for each in found:
            changed = {name.replace("-", "_"): value for name, value in each.options.items()}
            again = on_card(configs.LLAMA_2_7B, **{**options, **changed})
            assert again.needed_bytes == each.needed_bytes <= available_bytes
        return [" ".join(each.options) for each in found]

    def test_each_by_itself_where_that_is_enough(self) -> None:
        long = {"method": "lora", "batch_size": 1, "max_length": 8192}
        assert self.said(17 * GB, **long) == ["method", "max_length"]

    def test_both_together_where_one_is_not(self) -> None:
        long = {"method": "lora", "batch_size": 1, "max_length": 32768}
        assert self.said(6 * GB, **long) == ["method max_length"]
        assert self.said(4 * GB, method="lora", batch_size=1) == []

    def test_a_base_that_is_stored_in_4_bits_is_not_quantised_once_more(self) -> None:
        spec = TrainingSpec(method="lora", batch_size=16, grad_accum=1)
        how: dict[str, Any] = {"available_bytes": 17 * GB, "place": "cuda", "batch_size": 16}
        found = alternatives(PlannedTraining(configs.LLAMA_2_7B, {}, spec), may_quantize=False, **how)
        assert not any("method" in each.options for each in found)
