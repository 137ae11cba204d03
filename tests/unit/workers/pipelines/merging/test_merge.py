from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support.merges import merge

from sdk.schemas.events import Progress
from sdk.schemas.lora_config import LoraConfig, QuantizationRecipe
from workers.pipelines.errors import PipelineError
from workers.pipelines.merging.prompts import Distance, distance
from workers.pipelines.model.adapters import write_adapter

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

NAMES = {
    "llama": "model.layers.{layer}.self_attn.{module}",
    "gpt2": "transformer.h.{layer}.attn.{module}",
}


def make_adapter(
    folder: Path, family: str, shapes: dict[str, tuple[int, int]], lora: LoraConfig, **rest: Any
) -> dict[str, tuple[Any, Any]]:
    """Write an adapter with random A (r, in) and B (out, r); return (A, B) by full module name."""
    generator = torch.Generator().manual_seed(5)
    matrices, tensors = {}, {}
    for layer in (0, 1):
        for module, (outs, ins) in shapes.items():
            name = NAMES[family].format(layer=layer, module=module)
            rank = next((r for pattern, r in lora.rank_pattern.items() if name.endswith(pattern)), lora.rank)
            a = torch.randn(rank, ins, generator=generator) * 0.3
            b = torch.randn(outs, rank, generator=generator) * 0.3
            matrices[name] = (a, b)
            tensors[f"base_model.model.{name}.lora_A.weight"] = a
            tensors[f"base_model.model.{name}.lora_B.weight"] = b
    options = {"base_name": "org/tiny", "base_revision": None, "fan_in_fan_out": False, **rest}
    write_adapter(folder, tensors=tensors, lora=lora, **options)
    return matrices


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "scales"),
    [
        ({}, {"q_proj": 12 / 4, "v_proj": 12 / 4}),
        ({"use_rslora": True}, {"q_proj": 12 / math.sqrt(4), "v_proj": 12 / math.sqrt(4)}),
        ({"rank_pattern": {"v_proj": 2}}, {"q_proj": 12 / 4, "v_proj": 12 / 2}),
        ({"rank_pattern": {"v_proj": 2}, "alpha_pattern": {"v_proj": 5.0}}, {"q_proj": 12 / 4, "v_proj": 5 / 2}),
        ({"rank_pattern": {"v_proj": 2}, "use_rslora": True}, {"q_proj": 12 / 2, "v_proj": 12 / math.sqrt(2)}),
    ],
)
def test_a_merged_weight_is_w_plus_s_b_a(
    llama_base: Path, tmp_path: Path, change: dict[str, Any], scales: dict[str, float]
) -> None:
    lora = LoraConfig(rank=4, alpha=12, dropout=0.1, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    lora = lora.model_copy(update=change)
    shapes = {"q_proj": (64, 64), "v_proj": (32, 64)}
    matrices = make_adapter(tmp_path / "adapter", "llama", shapes, lora)
    report = merge(llama_base, tmp_path / "adapter", tmp_path / "out")
    before, after = weights(llama_base), weights(tmp_path / "out")
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        name = key.removesuffix(".weight")
        if name in matrices:
            a, b = (matrix.double() for matrix in matrices[name])
            expected = tensor.double() + scales[name.rsplit(".", 1)[-1]] * (b @ a)
            torch.testing.assert_close(after[key].double(), expected, rtol=1e-5, atol=1e-5)
        else:
            assert torch.equal(tensor, after[key])
    assert (report.onto, report.dtype) == ("original", "float32")
    assert report.metrics["merged_modules"] == 4
    assert report.metrics["logit_kl_original"] < 1e-6
    assert report.metrics["max_abs_logit_diff"] < 1e-2


def test_transposed_weights_of_gpt2_are_merged_transposed(gpt2_base: Path, tmp_path: Path) -> None:
    lora = LoraConfig(rank=4, alpha=8, dropout=0.0, target_modules=["c_attn"], task_type="CAUSAL_LM")
    matrices = make_adapter(tmp_path / "adapter", "gpt2", {"c_attn": (192, 64)}, lora, fan_in_fan_out=True)
    report = merge(gpt2_base, tmp_path / "adapter", tmp_path / "out")
    name = "transformer.h.0.attn.c_attn"
    a, b = matrices[name]
    expected = weights(gpt2_base)[f"{name}.weight"] + 2 * (b @ a).T
    torch.testing.assert_close(weights(tmp_path / "out")[f"{name}.weight"], expected, rtol=1e-5, atol=1e-5)
    assert report.metrics["logit_kl_original"] < 1e-6


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    lora = LoraConfig(rank=4, alpha=8, dropout=0.0, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    make_adapter(tmp_path / "adapter", "llama", {"q_proj": (64, 64), "v_proj": (32, 64)}, lora)
    return tmp_path / "adapter"


def test_models_that_all_but_agree_are_never_less_than_nothing_apart() -> None:
    mask = torch.ones(1, 8, dtype=torch.bool)
    for seed in range(20):
        logits, noise = torch.randn(2, 1, 8, 512, generator=torch.Generator().manual_seed(seed))
        assert 0 <= distance(logits, logits + 1e-6 * noise, mask).kl < 1e-6


def test_what_was_trained_is_what_a_merge_is_measured_from() -> None:
    trained, merged = (torch.tensor([[[share, 1 - share]]]).log() for share in (0.5, 0.9))
    found = distance(trained, merged, torch.ones(1, 1, dtype=torch.bool))
    # KL(p‖q) = Σ p·ln(p/q); the other way round it is 0.368.
    assert found.kl == pytest.approx(0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1))


def test_auto_measures_both_bases_and_keeps_the_nearer(llama_base: Path, adapter: Path, tmp_path: Path) -> None:
    recipe = QuantizationRecipe()
    seen: list[Progress] = []
    report = merge(llama_base, adapter, tmp_path / "auto", quantization=recipe, on_progress=seen.append)
    one = merge(llama_base, adapter, tmp_path / "one", onto="original", quantization=recipe)
    two = merge(llama_base, adapter, tmp_path / "two", onto="dequantized", quantization=recipe)
    original, dequantized = report.metrics["logit_kl_original"], report.metrics["logit_kl_dequantized"]
    # A random base is far from its quantised self, so that here the dequantised one must win.
    assert 0 <= dequantized < 0.1 * original
    assert report.onto == "dequantized"
    assert (one.onto, one.metrics["logit_kl_original"]) == ("original", original)
    assert (two.onto, two.metrics["logit_kl_dequantized"]) == ("dequantized", dequantized)
    assert "logit_kl_dequantized" not in one.metrics
    auto, same = weights(tmp_path / "auto"), weights(tmp_path / "two")
    assert all(torch.equal(tensor, same[name]) for name, tensor in auto.items())
    # All quantised weights are taken as quantised, not only those of the adapter.
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(auto[name], weights(tmp_path / "one")[name])
    assert {"load", "merge", "read back", "save"} == {progress.phase for progress in seen}


def test_auto_keeps_the_original_where_that_is_nearer(
    llama_base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import workers.pipelines.merging.prompts as prompts

    distances = iter([Distance(0.5, 1.0), Distance(0.25, 1.0)])
    monkeypatch.setattr(prompts, "distance_of", lambda *args, **options: next(distances))
    report = merge(llama_base, adapter, tmp_path / "out", quantization=QuantizationRecipe())
    assert report.onto == "original"
    monkeypatch.undo()
    # The same base without quantisation gives the same weights.
    merge(llama_base, adapter, tmp_path / "plain")
    ours, theirs = weights(tmp_path / "out"), weights(tmp_path / "plain")
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_merged_folder_is_complete_and_loads_alone(
    llama_base: Path, adapter: Path, tmp_path: Path, dtype: Any
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    report = merge(llama_base, adapter, tmp_path / "out", dtype=dtype)
    assert report.dtype == dtype
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert str(model.dtype) == f"torch.{dtype}"
    text = json.dumps([path.read_text() for path in (tmp_path / "out").glob("*.json")])
    assert str(llama_base) not in text
    assert "quantization_config" not in text
    ours, theirs = (AutoTokenizer.from_pretrained(folder) for folder in (tmp_path / "out", llama_base))
    assert ours("the cat")["input_ids"] == theirs("the cat")["input_ids"]
    assert ours.chat_template == theirs.chat_template


def test_dequantised_without_a_quantised_training_is_refused(llama_base: Path, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(PipelineError) as caught:
        merge(llama_base, adapter, tmp_path / "out", onto="dequantized")
    assert caught.value.reason == "spec"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        ({"exclude_modules": "(a+)+b"}, "which PEFT might try for ever: it repeats a group"),
        ({"alpha_pattern": {"(_*[a-z0-9._]*)*!": 4}}, "which PEFT might try for ever: it repeats a group"),
        ({"auto_mapping": {"parent_library": "os"}}, "can run code"),
    ],
)
def test_what_was_stored_before_its_config_was_looked_at_never_reaches_peft(
    stored: dict[str, Any], said: str, llama_base: Path, tmp_path: Path
) -> None:
    lora = LoraConfig(rank=2, alpha=4, dropout=0.0, target_modules=["q_proj"])
    make_adapter(tmp_path / "adapter", "llama", {"q_proj": (64, 64)}, lora)
    path = tmp_path / "adapter/adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | stored))
    with pytest.raises(PipelineError, match=said):
        merge(llama_base, tmp_path / "adapter", tmp_path / "out")
