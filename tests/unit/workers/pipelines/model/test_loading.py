from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sdk.schemas.lora_config import QuantizationRecipe
from workers.pipelines.errors import PipelineError
from workers.pipelines.model.blueprint import read_blueprint
from workers.pipelines.model.device import choose_device
from workers.pipelines.model.loading import load_base
from workers.pipelines.model.packed import packed_modules


@pytest.mark.parametrize("base", ["llama_base", "gpt2_base"])
def test_wide_weights_give_the_logits_of_packed_ones(
    base: str, request: pytest.FixtureRequest, wide_share: Callable[[float], None]
) -> None:
    folder, device = request.getfixturevalue(base), choose_device()
    wide = load_base(folder, device, quantization=QuantizationRecipe())
    wide_share(0.0)
    packed = load_base(folder, device, quantization=QuantizationRecipe())
    assert packed.held == "packed"
    assert wide.held == ("wide" if device.kind == "cpu" else "packed")
    ids = torch.arange(40).view(2, 20).to(device.torch_device)
    with torch.no_grad():
        assert torch.equal(wide.model(ids).logits, packed.model(ids).logits)
        assert not torch.equal(
            wide.model(ids).logits.float(), load_base(folder, device, quantization=None).model(ids).logits.float()
        )
    # Wide, packed and native count the same weights.
    assert wide.parameters == packed.parameters == load_base(folder, device, quantization=None).parameters


def test_packed_weights_are_never_repacked_for_inference(llama_base: Path, wide_share: Callable[[float], None]) -> None:
    wide_share(0.0)
    loaded = load_base(llama_base, choose_device(), quantization=QuantizationRecipe())
    modules = [module for _, module in packed_modules(loaded.model)]
    assert len(modules) == 14
    assert not any(module.support_avx512bf16_for_cpu for module in modules)


def test_the_recipe_says_what_was_not_quantised(llama_base: Path) -> None:
    recipe = load_base(llama_base, choose_device(), quantization=QuantizationRecipe()).quantization
    assert recipe.skipped_modules == ["lm_head"]
    assert recipe.library_version is not None
    again = load_base(llama_base, choose_device(), quantization=recipe).quantization
    assert again == recipe


def test_modules_that_the_recipe_skips_stay_as_they_are(llama_base: Path) -> None:
    recipe = QuantizationRecipe(skipped_modules=["lm_head", "o_proj"])
    device = choose_device()
    skipping = load_base(llama_base, device, quantization=recipe).model.state_dict()
    native = load_base(llama_base, device, quantization=None).model.state_dict()
    name = "model.layers.0.self_attn.{}.weight"
    dtype = skipping[name.format("o_proj")].dtype
    assert torch.equal(skipping[name.format("o_proj")], native[name.format("o_proj")].to(dtype))
    assert not torch.equal(skipping[name.format("q_proj")], native[name.format("q_proj")].to(dtype))


def test_a_folder_without_weights_is_a_base_error(llama_base: Path, tmp_path: Path) -> None:
    shutil.copyfile(llama_base / "config.json", tmp_path / "config.json")
    with pytest.raises(PipelineError) as caught:
        load_base(tmp_path, choose_device(), quantization=None)
    assert caught.value.reason == "base"


def _copy(base: Path, to: Path, **config: Any) -> Path:
    shutil.copytree(base, to)
    said = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps({**said, **config}))
    return to


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
@pytest.mark.parametrize(("said", "used"), [("flash_attention_2", "sdpa"), ("eager", "eager"), ("nonsense", "sdpa")])
def test_how_attention_is_computed_is_not_the_base_s_to_say(
    key: str, said: str, used: str, llama_base: Path, tmp_path: Path
) -> None:
    base = _copy(llama_base, tmp_path / "base", **{key: said})
    assert read_blueprint(base).config._attn_implementation == used
    model = load_base(base, choose_device(), quantization=None).model
    assert model.config._attn_implementation == used
    plain = load_base(llama_base, choose_device(), quantization=None).model
    ids = torch.arange(20).view(1, 20).to(model.device)
    with torch.no_grad():
        assert torch.allclose(model(ids).logits, plain(ids).logits, atol=1e-4)


@pytest.mark.parametrize(
    "said", [{"attn_implementation": "org/kernel"}, {"transformers_weights": "../other/model.safetensors"}]
)
def test_a_config_names_no_code_and_no_other_weights(said: dict[str, str], llama_base: Path, tmp_path: Path) -> None:
    _copy(llama_base, tmp_path / "other")
    base = _copy(llama_base, tmp_path / "base", **said)
    for load in (read_blueprint, lambda folder: load_base(folder, choose_device(), quantization=None)):
        with pytest.raises(PipelineError, match=next(iter(said))) as caught:
            load(base)
        assert caught.value.reason == "base"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, and no model has more than 10,000"),
        ({"text_config": {"num_local_experts": 10**9}}, "num_local_experts is 1000000000"),
        ({"hidden_size": 10**9}, "other shapes than its config says"),
        ({"num_hidden_layers": 3}, "weights lack 9 tensors .*first: model.layers.2"),
    ],
)
def test_a_config_that_counts_what_its_weights_don_t_have_is_a_base_error(
    config: dict[str, Any], words: str, llama_base: Path, tmp_path: Path
) -> None:
    with pytest.raises(PipelineError, match=words) as caught:
        load_base(_copy(llama_base, tmp_path / "base", **config), choose_device(), quantization=None)
    assert caught.value.reason == "base"


def test_a_quantisation_whose_library_is_missing_is_the_base_s(llama_base: Path, tmp_path: Path) -> None:
    base = _copy(llama_base, tmp_path / "base", quantization_config={"quant_method": "awq", "bits": 4})
    with pytest.raises(PipelineError) as caught:
        load_base(base, choose_device(), quantization=None)
    assert caught.value.reason == "base"
