"""What can't be merged exactly is refused by name before a weight is read."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from support.architectures import save_model
from support.experts import save_experts, save_single_experts
from support.merges import make, merge, save_adapter, save_as_pushed
from transformers import AutoModelForCausalLM
from transformers.core_model_loading import PermuteForRope, WeightConverter

import workers.pipelines.merging.placement as placement
from workers.pipelines.errors import PipelineError
from workers.pipelines.merging.blocks import Blocks

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def nothing_is_read(monkeypatch: pytest.MonkeyPatch, free_memory: Callable[[int], None]) -> None:
    monkeypatch.setattr(Blocks, "rows", lambda *given: pytest.fail("weights were read"))
    free_memory(0)


def refused(base: Path, adapter: Path, out: Path, **spec: Any) -> PipelineError:
    with pytest.raises(PipelineError) as caught:
        merge(base, adapter, out, **spec)
    assert not out.exists()
    assert not list(out.parent.glob(f".{out.name}*"))
    return caught.value


def saying(**said: Any) -> Callable[[Path], None]:
    def change(adapter: Path) -> None:
        path = adapter / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | said))

    return change


def holding(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def changed(adapter: Path) -> None:
        tensors = load_file(adapter / "adapter_model.safetensors")
        change(tensors)
        save_file(tensors, adapter / "adapter_model.safetensors")

    return changed


A = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"
MAGNITUDE = "base_model.model.model.layers.1.self_attn.q_proj.lora_magnitude_vector"
WHOLE = "base_model.model.model.layers.1.input_layernorm.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (saying(init_lora_weights="pissa"), "init_lora_weights is 'pissa', which changes the base"),
        (saying(init_lora_weights="olora"), "init_lora_weights is 'olora', which changes the base"),
        (saying(layer_replication=[[0, 2], [1, 2]]), "layer_replication repeats the base's layers"),
        (saying(alora_invocation_tokens=[3]), "alora_invocation_tokens makes the adapter act on some tokens only"),
        (saying(lora_bias=True), "q_proj has no bias that lora_bias could be added to"),
        (saying(r=4), "and the base wants"),
        (saying(target_modules=["q_proj"]), "of the adapter's tensors match no module of this base"),
        (holding(lambda tensors: tensors.pop(A)), "of its matrices are missing"),
        (
            holding(lambda tensors: tensors.update({"other.weight": torch.ones(2)})),
            "1 of the adapter's tensors match no module",
        ),
        (
            holding(lambda tensors: tensors.update({A: tensors[A].to(torch.float8_e4m3fn)})),
            "an adapter may have only floating-point tensors",
        ),
        (
            holding(lambda tensors: tensors.update({A: torch.ones(3, 7)})),
            r"lora_A.weight is \[3, 7\], and the base wants",
        ),
    ],
)
def test_an_adapter_that_is_no_update_of_its_base(change: Callable[[Path], None], said: str, tmp_path: Path) -> None:
    made = make("llama", "plain", tmp_path)
    change(made.adapter)
    found = refused(made.base, made.adapter, tmp_path / "out")
    assert found.reason == "adapter"
    assert re.search(said, found.message), found.message


def test_rslora_of_single_experts_which_peft_scales_by_the_rank_of_all_that_it_joins(tmp_path: Path) -> None:
    base = save_experts("mixtral", tmp_path / "base")
    adapter = save_single_experts("mixtral", base, tmp_path / "adapter", rank=3, alpha=6)
    saying(use_rslora=True)(adapter)
    # What PEFT makes of it is not what was trained.
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    scales = {module.scaling["default"] for module in model.modules() if hasattr(module, "parameter_name")}
    assert scales - {6 / math.sqrt(3)}
    found = refused(base, adapter, tmp_path / "out")
    assert "is joined to others by PEFT, which scales rsLoRA by the rank of all of them" in found.message


def test_a_grown_vocabulary_without_its_head(tmp_path: Path) -> None:
    made = make("llama", "plain", tmp_path)
    model = AutoModelForCausalLM.from_pretrained(made.base)
    model.resize_token_embeddings(303, mean_resizing=False)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    grown = save_as_pushed(adapted, tmp_path / "grown")
    holding(lambda tensors: tensors.pop("base_model.model.lm_head.weight"))(grown)
    found = refused(made.base, grown, tmp_path / "out")
    assert "The adapter has 303 tokens and not lm_head.weight of as many" in found.message


def test_a_weight_that_the_library_computes_from_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make("llama", "plain", tmp_path)
    turned = WeightConverter("self_attn.q_proj.weight", "self_attn.q_proj.weight", operations=[PermuteForRope()])
    monkeypatch.setattr(placement, "get_model_conversion_mapping", lambda model: [turned])
    found = refused(made.base, made.adapter, tmp_path / "out", dtype="float32")
    assert "q_proj.weight is made of several of the base's tensors in a way that is not followed here" in found.message


def test_a_base_whose_files_are_none(tmp_path: Path) -> None:
    made = make("llama", "plain", tmp_path)
    (made.base / "model.safetensors").write_bytes(b"\0" * 20)
    assert refused(made.base, made.adapter, tmp_path / "out").reason == "base"
    shutil.rmtree(made.base)


def test_a_scale_that_is_read_otherwise_than_the_config_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make("llama", "patterns", tmp_path)
    from peft.tuners.lora import LoraModel

    real = LoraModel._create_and_replace

    def forgetful(self: Any, config: Any, *given: Any, **options: Any) -> Any:
        config.alpha_pattern = {}
        return real(self, config, *given, **options)

    monkeypatch.setattr(LoraModel, "_create_and_replace", forgetful)
    found = refused(made.base, made.adapter, tmp_path / "out")
    assert re.search(
        r"PEFT scales model\.layers\.[01]\..* by .*, which is not what adapter_config.json says", found.message
    )


Q = "model.layers.1.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors: tensors.pop("model.norm.weight"), "The base's files lack model.norm.weight"),
        (lambda tensors: tensors.pop(Q), f"The base's files lack {Q}"),
        (
            lambda tensors: tensors.update({"model.norm.weight": torch.ones(31)}),
            r"have \[31\] of model.norm.weight, and its config wants \[32\]",
        ),
        (lambda tensors: tensors.update({Q: torch.ones(64, 32)}), rf"have \[64, 32\] of {Q}"),
    ],
)
def test_a_base_of_which_a_library_would_begin_a_part_anew(
    change: Callable[[dict[str, Any]], None], said: str, tmp_path: Path
) -> None:
    made = make("llama", "plain", tmp_path)
    tensors = load_file(made.base / "model.safetensors")
    change(tensors)
    save_file(tensors, made.base / "model.safetensors", metadata={"format": "pt"})
    found = refused(made.base, made.adapter, tmp_path / "out")
    assert found.reason == "base"
    assert re.search(said, found.message), found.message


def test_weights_in_8_bit_floats(tmp_path: Path) -> None:
    made = make("llama", "plain", tmp_path)
    path = made.base / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {Q: tensors[Q].to(torch.float8_e4m3fn)}, path, metadata={"format": "pt"})
    found = refused(made.base, made.adapter, tmp_path / "out")
    assert f"{Q} is stored as F8_E4M3, in which nothing is summed" in found.message


def test_positions_whose_embedding_peft_looks_up_by_something_else(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", "opt")
    adapter = save_adapter(base, tmp_path / "adapter", r=2, target_modules=["embed_positions", "q_proj"])
    found = refused(base, adapter, tmp_path / "out")
    assert "embed_positions is an embedding of another kind, to which PEFT does not add s·B·A" in found.message


@pytest.mark.parametrize(
    ("variant", "change", "said"),
    [
        ("tokens", saying(trainable_token_indices=[3, 5, 300]), "name tokens that model.embed_tokens has not"),
        (
            "tokens",
            saying(trainable_token_indices=[3, 5, 5]),
            "name tokens that model.embed_tokens has not, or one twice",
        ),
        ("tokens", saying(trainable_token_indices=[3, 5]), r"is \[3, 32\], and the base wants \[2, 32\]"),
        (
            "whole",
            holding(lambda tensors: tensors.update({WHOLE: torch.ones(31)})),
            r"input_layernorm.weight is \[31\], and the base wants \[32\]",
        ),
        (
            "dora",
            holding(lambda tensors: tensors.update({MAGNITUDE: torch.ones(5)})),
            "is .5., and the base has 32 outputs",
        ),
    ],
)
def test_tensors_of_another_shape_than_their_place(
    variant: str, change: Callable[[Path], None], said: str, tmp_path: Path
) -> None:
    made = make("llama", variant, tmp_path)
    change(made.adapter)
    assert re.search(said, refused(made.base, made.adapter, tmp_path / "out").message)
