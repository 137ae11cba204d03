"""Bases that come in 4 bits: trained over as they are, by their own recipe, scored so, and merged once they are wide."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.evaluated import score
from support.merges import Made, merge, require_published
from support.quantised import pack_base, unpacked
from support.trainings import run_training
from support.weights import admitted
from transformers import AutoModelForCausalLM

from sdk.pulling.cache import Cache
from sdk.pushing.base_folder import scan_base
from sdk.schemas.evaluation import EvaluationReport, EvaluationSpec
from sdk.schemas.events import Progress
from sdk.schemas.lora_config import QuantizationRecipe
from sdk.schemas.training import TrainingSpec
from sdk.schemas.training_report import TrainingReport
from workers.pipelines.errors import PipelineError
from workers.pipelines.model import loading
from workers.pipelines.model.blueprint import read_blueprint
from workers.pipelines.model.device import choose_device
from workers.pipelines.model.loading import load_base
from workers.pipelines.model.packed import packed_modules

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

SPEC = TrainingSpec(rank=4, max_steps=2, lr=0.02, batch_size=2, grad_accum=1, targets="q_proj,v_proj", seed=3)
RECIPES: dict[str, dict[str, Any]] = {
    "nf4": {},
    "fp4": {
        "bnb_4bit_quant_type": "fp4",
        "bnb_4bit_use_double_quant": False,
        "bnb_4bit_quant_storage": "bfloat16",
        "compute_dtype": "float32",
        "llm_int8_skip_modules": ["lm_head", "o_proj", "model.layers.1.mlp.down_proj"],
    },
}


@pytest.fixture(scope="module", params=sorted(RECIPES))
def packed(
    request: pytest.FixtureRequest, llama_base: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """How a base is packed, and its folder."""
    folder = tmp_path_factory.mktemp(request.param) / "base"
    return request.param, pack_base(llama_base, folder, **RECIPES[request.param])


@pytest.fixture(scope="module")
def nf4_base(llama_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_base(llama_base, tmp_path_factory.mktemp("only-nf4") / "base")


def train(base: Path, data: Path, out: Path, spec: TrainingSpec = SPEC, **rest: Any) -> TrainingReport:
    return run_training(base, data, out, spec=spec, **rest)


def evaluate(base: Path, data: Path, adapter: Path | None = None, **spec: Any) -> EvaluationReport:
    return score(base, data, adapter, spec=EvaluationSpec(generate_rows=0, **spec))


def shapes(folder: Path, cache: Path) -> dict[str, list[int]]:
    return scan_base(folder, cache=Cache(cache)).registration.tensors


def test_the_shapes_are_those_of_the_base_that_it_was_made_from(
    packed: tuple[str, Path], llama_base: Path, tmp_path: Path
) -> None:
    ours, theirs = shapes(packed[1], tmp_path), shapes(llama_base, tmp_path)
    assert {name: ours[name] for name in theirs} == theirs
    assert ours.keys() > theirs.keys()


def test_a_qlora_is_recorded_with_the_base_s_own_recipe_and_passes_admission(
    packed: tuple[str, Path], pairs: Path, tmp_path: Path
) -> None:
    kind, base = packed
    seen: list[Progress] = []
    report = train(base, pairs, tmp_path / "out", on_progress=seen.append)
    said = report.quantization.model_dump(exclude={"library_version", "skipped_modules"})
    assert (
        said
        == {
            "nf4": {
                "method": "bitsandbytes",
                "type": "nf4",
                "double_quant": True,
                "compute_dtype": "bfloat16",
                "block_size": 64,
                "storage_dtype": "uint8",
            },
            "fp4": {
                "method": "bitsandbytes",
                "type": "fp4",
                "double_quant": False,
                "compute_dtype": "float32",
                "block_size": 64,
                "storage_dtype": "bfloat16",
            },
        }[kind]
    )
    assert (
        report.quantization.skipped_modules
        == {"nf4": ["lm_head"], "fp4": ["lm_head", "model.layers.1.mlp.down_proj", "o_proj"]}[kind]
    )
    assert any(f"held as {kind} " in (progress.message or "") for progress in seen)
    assert admitted(tmp_path / "out", base, report.lora) == []


def test_plain_peft_over_plain_transformers_computes_what_we_do(
    packed: tuple[str, Path], pairs: Path, tmp_path: Path, wide_share: Callable[[float], None]
) -> None:
    from peft import PeftModel

    from workers.pipelines.model.adapters import load_adapter

    base = packed[1]
    train(base, pairs, tmp_path / "out")
    plain = AutoModelForCausalLM.from_pretrained(base)
    # The library repacks weights for a CPU, which moves the last digits.
    for _, module in packed_modules(plain):
        module.support_avx512bf16_for_cpu = False
    if packed[0] == "fp4":
        # The library leaves what lies beside packed weights in bfloat16, though it multiplies in float32.
        for parameter in plain.parameters():
            if not hasattr(parameter, "quant_state"):
                parameter.data = parameter.data.float()
    ids = torch.arange(24).view(2, 12)
    with torch.no_grad():
        bare = plain.eval()(ids).logits
    theirs = PeftModel.from_pretrained(plain, tmp_path / "out").eval()
    wide_share(0.0)
    ours = load_adapter(load_base(base, choose_device(), quantization=None).model, tmp_path / "out")
    with torch.no_grad():
        expected, found = theirs(ids).logits, ours(ids.to(ours.device)).logits.cpu()
    assert not torch.equal(expected, bare)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_what_is_merged_is_the_base_made_wide_and_the_update(
    packed: tuple[str, Path], pairs: Path, tmp_path: Path
) -> None:
    kind, base = packed
    train(base, pairs, tmp_path / "adapter")
    report = merge(base, tmp_path / "adapter", tmp_path / "out", dtype="float32")
    assert (report.onto, report.dtype) == ("dequantized", "float32")
    require_published(Made(base, tmp_path / "adapter"), tmp_path / "out", report)
    assert not {name for name in report.metrics if "original" in name}
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())
    merged, wide = load_file(tmp_path / "out" / "model.safetensors"), unpacked(base)
    matrices = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert merged.keys() == wide.keys()
    for name, weight in wide.items():
        prefix = f"base_model.model.{name.removesuffix('.weight')}"
        expected = weight.float()
        if f"{prefix}.lora_A.weight" in matrices:
            expected = expected + 2 * matrices[f"{prefix}.lora_B.weight"] @ matrices[f"{prefix}.lora_A.weight"]
        torch.testing.assert_close(merged[name], expected, rtol=0, atol=1e-6, msg=f"{kind}: {name}")
    # Nothing of bitsandbytes is left in it.
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert {type(module).__name__ for module in loaded.modules() if "Linear" in type(module).__name__} == {"Linear"}


@pytest.mark.parametrize("stored", [True, False])
def test_a_model_of_transposed_weights_is_written_transposed(
    gpt2_base: Path, pairs: Path, tmp_path: Path, stored: bool
) -> None:
    from bitsandbytes.functional import dequantize_4bit

    base = pack_base(gpt2_base, tmp_path / "base") if stored else gpt2_base
    # The second is square, so that a forgotten transposition would go unseen by the shapes.
    spec = SPEC.model_copy(update={"targets": "attn.c_attn,attn.c_proj"})
    report = train(base, pairs, tmp_path / "adapter", spec)
    assert report.lora.fan_in_fan_out == (not stored)
    admitted(tmp_path / "adapter", base, report.lora)
    options = {} if stored else {"quantization": QuantizationRecipe()}
    done = merge(base, tmp_path / "adapter", tmp_path / "out", onto="dequantized", dtype="float32", **options)
    require_published(Made(base, tmp_path / "adapter"), tmp_path / "out", done)
    packed = AutoModelForCausalLM.from_pretrained(base if stored else pack_base(base, tmp_path / "packed"))
    matrices = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    # Conv1D holds its weight as (in, out), and a packed one stands for (out, in).
    merged = dict(AutoModelForCausalLM.from_pretrained(tmp_path / "out").named_parameters())
    for name, module in packed_modules(packed):
        expected = dequantize_4bit(module.weight.data, module.weight.quant_state).float()
        prefix = f"base_model.model.{name}"
        if f"{prefix}.lora_A.weight" in matrices:
            expected = expected + 2 * matrices[f"{prefix}.lora_B.weight"] @ matrices[f"{prefix}.lora_A.weight"]
        torch.testing.assert_close(merged[f"{name}.weight"], expected.T, rtol=0, atol=1e-6, msg=name)


def test_an_evaluation_loads_it_as_it_is_stored(packed: tuple[str, Path], pairs: Path) -> None:
    report = evaluate(packed[1], pairs)
    assert report.precision == packed[0]
    kept = report.metrics[f"base_{packed[0]}_parameters"]
    assert 0 < kept < sum(value for name, value in report.metrics.items() if name.endswith("_parameters"))


def test_what_it_has_not_is_refused_before_anything_is_loaded(
    nf4_base: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_from_pretrained", lambda *given: pytest.fail("the base was loaded"))
    train_lora = SPEC.model_copy(update={"method": "lora"})
    for refused, said in (
        (
            lambda: train(nf4_base, pairs, tmp_path / "out", train_lora),
            "stored in 4 bits .nf4.*choose the method qlora",
        ),
        (
            lambda: evaluate(nf4_base, pairs, precision="native"),
            "stored in nf4, and has no native weights",
        ),
        (
            lambda: merge(nf4_base, tmp_path / "adapter", tmp_path / "out", onto="original"),
            "no 16-bit weights to merge onto",
        ),
    ):
        with pytest.raises(PipelineError, match=said) as caught:
            refused()
        assert caught.value.reason == "spec"


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "'gptq'"),
        ({"quant_method": "awq", "bits": 4}, "'awq'"),
        ({"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}, "'fp8'"),
        ({"quant_method": "compressed-tensors", "format": "float-quantized"}, "'compressed-tensors'"),
        ({"quant_method": "mxfp4"}, "'mxfp4'"),
        ({"quant_method": "hqq"}, "'hqq'"),
        ({"quant_method": "aqlm"}, "'aqlm'"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "'bitsandbytes' in 8 bits"),
        ({"bits": 4}, "an unnamed method"),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf5"}, "with unknown settings"),
        ("gptq", "quantization_config that is not an object"),
    ],
)
def test_another_method_is_refused_by_name(llama_base: Path, tmp_path: Path, said: Any, named: str) -> None:
    base = shutil.copytree(llama_base, tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "quantization_config": said}))
    with pytest.raises(PipelineError, match=named) as caught:
        read_blueprint(base)
    assert caught.value.reason == "base"
    assert "16-bit base" in str(caught.value)
