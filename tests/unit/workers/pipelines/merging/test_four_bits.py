"""Weights in 4 bits are made wide, some rows at a time, to the numbers that bitsandbytes loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from support.architectures import save_model
from support.merges import FAMILIES, loaded, save_adapter
from support.quantised import pack_base

from sdk.schemas.evaluation import MergeSpec
from sdk.schemas.lora_config import QuantizationRecipe
from workers.pipelines.merging.four_bits import quantised
from workers.pipelines.merging.merge import merge
from workers.pipelines.model.device import choose_device
from workers.pipelines.model.loading import load_base
from workers.pipelines.model.packed import packed_modules

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("shape", [(64, 128), (300, 64), (33, 192), (48, 32), (31, 34)])
@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_rows_are_those_of_the_whole_weight(shape: tuple[int, int], double: bool, kind: Any) -> None:
    weight = (torch.randn(shape, generator=torch.Generator().manual_seed(3)) * 0.2).bfloat16()
    packed, state = quantize_4bit(weight, blocksize=64, compress_statistics=double, quant_type=kind)
    whole = dequantize_4bit(packed, state)
    held = quantised(weight, QuantizationRecipe(type=kind, double_quant=double), torch.bfloat16)
    for begin, end in ((0, shape[0]), (0, 1), (7, 20), (shape[0] - 3, shape[0])):
        assert torch.equal(held.rows(begin, end), whole[begin:end])


@pytest.mark.parametrize(
    ("family", "stored"), [("llama", False), ("llama", True), ("gpt2", False), ("gpt2", True), ("mixtral", False)]
)
def test_what_is_merged_onto_the_dequantised_base_is_what_a_loaded_model_holds(
    family: str, stored: bool, tmp_path: Path
) -> None:
    base = save_model(tmp_path / "plain", family)
    recipe = QuantizationRecipe(compute_dtype="bfloat16")
    model = load_base(base, choose_device(), quantization=recipe, held="packed", dtype="bfloat16").model
    wanted = {name: dequantize_4bit(each.weight.data, each.weight.quant_state) for name, each in packed_modules(model)}
    (first, *_) = FAMILIES[family][0]
    adapter = save_adapter(base, tmp_path / "adapter", r=2, target_modules=[first])
    merge(
        base=pack_base(base, tmp_path / "packed") if stored else base,
        adapter=adapter,
        quantization=None if stored else recipe,
        out=tmp_path / "out",
        spec=MergeSpec(onto="dequantized", dtype="float32"),
        on_progress=lambda progress: None,
    )
    found = loaded(tmp_path / "out")
    untouched = {name: weight for name, weight in wanted.items() if not name.endswith(first)}
    assert untouched
    assert len(untouched) < len(wanted)
    for name, weight in untouched.items():
        assert torch.equal(found[f"{name}.weight"], (weight.T if family == "gpt2" else weight).float()), name
