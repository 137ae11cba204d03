"""ΔW = s·B·A compared by products of (rank, rank): what it says is held against PEFT's own ΔW and patterns."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.loras import compare, cosine

from sdk.lora.adapter_config import lora_of
from sdk.lora.delta_norms import delta_norms
from sdk.schemas.lora_config import LoraConfig


def save_peft(folder: Path, make: Callable[[], Any], **config: Any) -> tuple[Path, LoraConfig, dict[str, np.ndarray]]:
    """Save a LoRA with random B; return the folder, its record, and ΔW by module as PEFT has it once it is loaded."""
    import peft
    import torch
    from peft.tuners.lora import LoraLayer

    made = peft.get_peft_model(make().double(), peft.LoraConfig(**config), autocast_adapter_dtype=False).double()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_" in name:
                parameter.normal_()
    made.save_pretrained(folder, save_embedding_layers=False)
    record = lora_of(json.loads((folder / "adapter_config.json").read_text()))
    loaded = peft.PeftModel.from_pretrained(make().double(), folder, autocast_adapter_dtype=False)
    deltas = {
        # The parameters of one module are wrapped one around the other.
        name.removeprefix("base_model.model."): module.get_delta_weight("default").detach().numpy()
        for name, module in loaded.named_modules()
        if isinstance(module, LoraLayer) and getattr(module.get_base_layer(), "groups", 1) == 1
    }
    assert {delta.dtype.name for delta in deltas.values()} == {"float64"}
    return folder, record, deltas


def llama() -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config)


def convolutions() -> Any:
    import torch

    torch.manual_seed(0)
    return torch.nn.ModuleDict(
        {
            "plain": torch.nn.Conv2d(4, 6, 3),
            "point": torch.nn.Conv2d(6, 5, 1),
            "line": torch.nn.Conv1d(4, 6, 3),
            "grouped": torch.nn.Conv2d(4, 6, 3, groups=2),
        }
    )


def gpt2() -> Any:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=16, bos_token_id=0, eos_token_id=0)
    )


def mixtral() -> Any:
    import torch
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=3,
    )
    return MixtralForCausalLM(config)


LINEAR = ["q_proj", "v_proj", "down_proj"]
EXPERTS = {
    "target_modules": ["q_proj"],
    "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
}


# PEFT asks transformers for an attribute by its older name.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
class TestAgainstPeft:
    # float64 on both sides.
    @pytest.mark.parametrize(
        ("make", "one", "two"),
        [
            (llama, {"target_modules": LINEAR}, {"target_modules": LINEAR, "use_rslora": True}),
            (llama, {"target_modules": [*LINEAR, "embed_tokens"]}, {"target_modules": ["embed_tokens", "q_proj"]}),
            (
                llama,
                {"target_modules": LINEAR, "rank_pattern": {"q_proj": 2, r"layers\.1\..*(v|down)_proj": 5}},
                {
                    "target_modules": LINEAR,
                    "use_rslora": True,
                    "rank_pattern": {"model.layers.0.self_attn.v_proj": 7, "down_proj": 3},
                    "alpha_pattern": {"^model.layers.1.self_attn.q_proj": 3, "v_proj|down_proj": 0.5, "q_proj": 40},
                },
            ),
            (
                gpt2,
                {"target_modules": ["c_attn"], "fan_in_fan_out": True},
                {"target_modules": ["c_attn", "wte"], "fan_in_fan_out": True},
            ),
            (
                convolutions,
                {"target_modules": ["plain", "point", "line"]},
                {"target_modules": ["plain", "point", "line"]},
            ),
            (mixtral, EXPERTS, {**EXPERTS, "use_rslora": True}),
        ],
        ids=["rslora", "embedding", "patterns", "conv1d", "convolutions", "experts"],
    )
    def test_norms_and_cosines_are_of_its_own_delta_weights(
        self, tmp_path: Path, make: Callable[[], Any], one: dict[str, Any], two: dict[str, Any]
    ) -> None:
        folder_a, lora_a, dense_a = save_peft(tmp_path / "a", make, r=4, lora_alpha=12, **one)
        folder_b, lora_b, dense_b = save_peft(tmp_path / "b", make, r=4, lora_alpha=6, **two)
        found = compare(folder_a, folder_b, lora_a, lora_b)
        assert {delta.module for delta in found.modules} == dense_a.keys() | dense_b.keys()
        for delta in found.modules:
            a, b = dense_a.get(delta.module), dense_b.get(delta.module)
            assert delta.norm_a == (None if a is None else pytest.approx(np.linalg.norm(a), rel=1e-10))
            assert delta.norm_b == (None if b is None else pytest.approx(np.linalg.norm(b), rel=1e-10))
            assert delta.cosine == (None if a is None or b is None else pytest.approx(cosine(a, b), abs=1e-10))
        assert found.norm_a == pytest.approx(math.hypot(*(np.linalg.norm(a) for a in dense_a.values())), rel=1e-10)
        inner = sum(float((dense_a[m] * dense_b[m]).sum()) for m in dense_a.keys() & dense_b.keys())
        assert found.cosine == pytest.approx(inner / (found.norm_a * found.norm_b), abs=1e-10)
        assert found.notes == []
        for folder, record, dense in ((folder_a, lora_a, dense_a), (folder_b, lora_b, dense_b)):
            norms = delta_norms(folder, record)
            assert norms.norms() == pytest.approx({name: np.linalg.norm(one) for name, one in dense.items()}, rel=1e-10)
            for name, module in norms.modules.items():
                # Stacked experts are (experts, …, …).
                each = [np.linalg.norm(expert) for expert in dense[name]] if module.experts else []
                assert module.experts == pytest.approx(each, rel=1e-10)

    @pytest.mark.filterwarnings("ignore:LoRA adapter added to ConvNd layer with groups:UserWarning")
    def test_a_grouped_convolution_is_noted(self, tmp_path: Path) -> None:
        folder, record, dense = save_peft(tmp_path / "a", convolutions, r=4, target_modules=["grouped", "plain"])
        found = compare(folder, folder, record, record)
        grouped, plain = found.modules
        assert (grouped.module, grouped.norm_a, grouped.cosine, grouped.rank_a) == ("grouped", None, None, 4)
        assert plain.norm_a == pytest.approx(np.linalg.norm(dense["plain"]), rel=1e-10)
        assert [note.split(":")[0] for note in found.notes] == ["grouped", "grouped"]

    def test_magnitudes_and_saved_modules_are_noted(self, tmp_path: Path) -> None:
        config = {"target_modules": ["q_proj"], "use_dora": True, "modules_to_save": ["lm_head"]}
        folder, record, dense = save_peft(tmp_path / "a", llama, r=2, **config)
        found = compare(folder, folder, record, record)
        norms = delta_norms(folder, record)
        assert norms.norms() == pytest.approx({name: np.linalg.norm(one) for name, one in dense.items()}, rel=1e-10)
        assert norms.replaced == ["lm_head.weight"]
        assert {delta.module for delta in found.modules} == dense.keys()
        assert [note.split(" of both")[0].split(" (")[0] for note in found.notes] == [
            "DoRA's magnitudes",
            "whole tensors",
        ]

    @pytest.mark.filterwarnings("ignore:PiSSA changes the base weights:UserWarning")
    @pytest.mark.parametrize("change", [0.0, 1e-4, 1e-2])
    def test_a_conversion_from_pissa_has_the_norm_of_what_was_learnt(self, tmp_path: Path, change: float) -> None:
        import peft
        import torch

        original = llama().state_dict()
        config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], init_lora_weights="pissa")
        made = peft.get_peft_model(llama(), config)
        made.save_pretrained(tmp_path / "initial", save_embedding_layers=False)
        torch.manual_seed(5)
        with torch.no_grad():
            for name, parameter in made.named_parameters():
                if "lora_" in name:
                    parameter += change * torch.randn_like(parameter)
        made.save_pretrained(
            tmp_path / "converted",
            path_initial_model_for_weight_conversion=str(tmp_path / "initial"),
            save_embedding_layers=False,
        )
        record = lora_of(json.loads((tmp_path / "converted/adapter_config.json").read_text()))
        learnt = {name: weight for name, weight in made.merge_and_unload().state_dict().items() if "q_proj" in name}
        found = delta_norms(tmp_path / "converted", record)
        assert len(found.modules) == 2
        for module, one in found.modules.items():
            # The change of the weight itself, which PEFT computes in float32.
            truth = float(torch.linalg.norm(learnt[f"{module}.weight"] - original[f"{module}.weight"]))
            assert one.rank == 8
            assert one.norm == (pytest.approx(truth, rel=0.02) if change else 0.0)
