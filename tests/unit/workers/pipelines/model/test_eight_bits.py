"""LoRA over a base in 8 bits: trained, held packed or wide, refused where the processor computes something else, scored and merged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.evaluated import score
from support.families import save_rows
from support.merges import merge
from support.trainings import run_training

from sdk.schemas.lora_config import QuantizationRecipe
from sdk.schemas.training_report import TrainingReport
from workers.pipelines.errors import PipelineError
from workers.pipelines.model.device import choose_device
from workers.pipelines.model.loading import load_base
from workers.pipelines.model.packed import default_recipe, eight_bit_modules, scales_of, wide_weight

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("one_thread")]

QUICK: dict[str, Any] = {
    "quant_type": "int8", "rank": 4, "lr": 0.02, "batch_size": 6, "grad_accum": 1, "dropout": 0.0, "max_steps": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl")


def run(base: Path, rows: Path, out: Path, **options: Any) -> TrainingReport:
    return run_training(base, rows, out, eval_data=rows, **{**QUICK, **options})


def loaded(base: Path, held: Any) -> Any:
    device = choose_device()
    return load_base(base, device, quantization=default_recipe(device, "int8"), held=held)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_weights_are_those_of_bitsandbytes_and_near_the_stored_ones(bases: dict[str, Path], kind: str) -> None:
    from bitsandbytes.functional import int8_vectorwise_dequant
    from transformers import AutoModelForCausalLM

    packed, wide = loaded(bases[kind], "packed"), loaded(bases[kind], "wide")
    stored = AutoModelForCausalLM.from_pretrained(bases[kind], dtype=torch.float32)
    modules = dict(eight_bit_modules(packed.model))
    assert modules
    assert not list(eight_bit_modules(wide.model))
    for name, module in modules.items():
        ours = wide_weight(module, torch.float32)
        assert torch.allclose(ours, int8_vectorwise_dequant(module.weight.data, scales_of(module)), atol=1e-7)
        assert torch.equal(wide.model.get_submodule(name).weight, ours.to(torch.bfloat16))
        original = stored.get_submodule(name).weight
        original = original.T if original.shape != ours.shape or kind == "gpt2" else original
        # Half a level of the row's largest, and what bfloat16 rounds.
        largest = original.abs().amax(dim=1, keepdim=True)
        assert bool(((ours - original).abs() <= largest * (0.5 / 127 + 2**-8)).all()), name
    assert packed.shares["int8"].parameters == sum(each.weight.numel() for each in modules.values())
    rows_of_all = sum(each.out_features for each in modules.values())
    assert packed.shares["int8"].size_bytes == packed.shares["int8"].parameters + 4 * rows_of_all
    assert packed.quantization.type == "int8"
    assert packed.quantization.block_size is None
    assert packed.quantization.double_quant is False


@pytest.mark.parametrize("held", ["packed", "wide"])
@pytest.mark.parametrize("options", [{}, {"use_dora": True, "init_lora_weights": "eva"}], ids=["LoRA", "DoRA"])
def test_it_trains_and_is_scored_as_it_was_trained(
    bases: dict[str, Path],
    rows: Path,
    tmp_path: Path,
    wide_share: Callable[[float], None],
    held: str,
    options: dict[str, Any],
) -> None:
    wide_share(0.25 if held == "wide" else 0.0)
    report = run(bases["llama"], rows, tmp_path / "out", **options)
    assert report.training["base_weights"] == held
    assert report.quantization == QuantizationRecipe.model_validate_json(report.quantization.model_dump_json())  # type: ignore[union-attr]
    assert (report.quantization.type, report.quantization.skipped_modules) == ("int8", ["lm_head"])
    assert report.metrics["eval_loss"] < report.metrics["eval_loss_base"]
    assert report.metrics["base_int8_parameters"] > 0
    scored = score(bases["llama"], rows, tmp_path / "out", quantization=report.quantization)
    assert scored.precision == "int8"
    assert scored.metrics["loss"] == pytest.approx(report.metrics["eval_loss"], rel=0.02)


@pytest.mark.parametrize("wrong", ["products", "gradients", "nothing"])
def test_a_processor_that_computes_something_else_is_refused(
    bases: dict[str, Path],
    rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wide_share: Callable[[float], None],
    wrong: str,
) -> None:
    from bitsandbytes.nn import Linear8bitLt

    from workers.pipelines.training import train as training

    def forward(module: Any, x: Any) -> Any:
        if wrong == "nothing":
            raise NotImplementedError("int8 matmul needs AVX-512")
        y = x @ wide_weight(module, x.dtype).T
        return y * 1.2 if wrong == "products" else y.detach() + 0 * x.sum()

    wide_share(0.0)
    monkeypatch.setattr(Linear8bitLt, "forward", forward)
    monkeypatch.setattr(training, "adapted", None)
    said = {"products": "20% from those", "gradients": "gradients are 100% from", "nothing": "needs AVX-512"}[wrong]
    with pytest.raises(PipelineError, match=said) as refused:
        run(bases["llama"], rows, tmp_path / "out")
    assert "choose quant_type nf4" in str(refused.value)
    assert refused.value.reason == "base"
    # Made wide, nothing of it computes in 8 bits.
    wide_share(0.25)
    assert loaded(bases["llama"], None).held == "wide"


def test_it_is_merged_onto_the_original_with_its_distance_measured(
    bases: dict[str, Path], rows: Path, tmp_path: Path
) -> None:
    report = run(bases["llama"], rows, tmp_path / "out")
    merged = merge(bases["llama"], tmp_path / "out", tmp_path / "merged", quantization=report.quantization)
    assert merged.onto == "original"
    assert 0 < merged.metrics["logit_kl_original"] < 0.01
    assert "logit_kl_dequantized" not in merged.metrics
    assert json.loads((tmp_path / "merged" / "config.json").read_text()).get("quantization_config") is None
    with pytest.raises(PipelineError, match=r"was quantised to int8 by the training.*merge onto original"):
        merge(
            bases["llama"],
            tmp_path / "out",
            tmp_path / "other",
            quantization=report.quantization,
            onto="dequantized",
        )
