"""Admission lets through what the installed PEFT saves, in each way in which it adapts a model."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from support.weights import config_facts, weight_facts

from registry.artifacts.admission.inspection import ConfigFacts, WeightFacts
from registry.artifacts.admission.rules import judge
from registry.errors import Verification
from sdk.pulling.cache import Cache
from sdk.pushing.base_folder import scan_base
from sdk.pushing.pack import pack_adapter
from sdk.schemas.lora_config import LoraConfig

#: Ways in which the installed PEFT is told to adapt a Llama.
SETTINGS: list[dict[str, Any]] = [
    {},
    {"use_dora": True, "target_modules": ["q_proj", "embed_tokens"]},
    {"bias": "all"},
    {"bias": "lora_only"},
    {"lora_bias": True},
    {"modules_to_save": ["lm_head", "input_layernorm"]},
    {"trainable_token_indices": [3, 1]},
    {"target_parameters": ["mlp.up_proj.weight"]},
    {"rank_pattern": {r"layers\.1\..*": 2}},
    {"layers_to_transform": [1]},
]


@pytest.mark.parametrize(
    ("targets", "flag"),
    [
        (["c_attn", "c_proj", "c_fc"], True),
        ("all-linear", True),
        # PEFT has one flag for all modules, and the last one that it adapts, a Linear, makes it false.
        (["c_attn", "lm_head"], False),
    ],
    ids=["named", "all-linear", "with-head"],
)
@pytest.mark.parametrize("prefix", ["", "transformer."], ids=["as-saved", "as-on-the-hub"])
def test_what_peft_writes_for_gpt2_passes(targets: list[str] | str, flag: bool, prefix: str, tmp_path: Path) -> None:
    save_gpt2_adapter(tmp_path, targets)
    base = scan_base(tmp_path / "base", cache=Cache(tmp_path / "cache")).registration
    (tmp_path / "staging").mkdir()
    package = pack_adapter(
        tmp_path / "adapter",
        base_id="gpt2",
        base_revision=None,
        base_fingerprint=base.fingerprint,
        staging=tmp_path / "staging",
    )
    config = config_facts((tmp_path / "staging/adapter_config.json").read_bytes())
    weights = weight_facts((tmp_path / "adapter/adapter_model.safetensors").read_bytes(), package.lora)
    tensors = {name.removeprefix(prefix): shape for name, shape in base.tensors.items()}
    assert config.fan_in_fan_out is flag
    judge(weights, config, lora=package.lora, base_tensors=tensors, base_config={})
    turned = {name: shape[::-1] for name, shape in tensors.items()}
    if flag:
        with pytest.raises(Verification, match=r"as \(out, in\)"):
            judge(weights, config, lora=package.lora, base_tensors=turned, base_config={})


def save_gpt2_adapter(folder: Path, targets: list[str] | str) -> None:
    """Save a tiny GPT-2, and an adapter over it that changes something, with the real libraries' defaults."""
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=40,
        n_positions=16,
        n_embd=16,
        n_layer=2,
        n_head=2,
        bos_token_id=None,
        eos_token_id=0,
        tie_word_embeddings=False,
    )
    model = GPT2LMHeadModel(config)
    model.save_pretrained(folder / "base")
    with warnings.catch_warnings():
        # PEFT warns where it sets the flag to what the layers are.
        warnings.simplefilter("ignore")
        adapted = get_peft_model(
            model, PeftConfig(r=4, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
        )
        adapted.save_pretrained(folder / "adapter", save_embedding_layers=False)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: ",".join(settings))
def test_what_peft_writes_passes_in_every_setting(settings: dict[str, Any], tmp_path: Path) -> None:
    weights, config, lora, tensors = saved_by_peft(tmp_path, settings)
    warned = judge(weights, config, lora=lora, base_tensors=tensors, base_config={})
    assert all("embeddings and saved modules" in warning for warning in warned)


def saved_by_peft(
    folder: Path, settings: dict[str, Any]
) -> tuple[WeightFacts, ConfigFacts, LoraConfig, dict[str, list[int]]]:
    """Save an adapter over a tiny Llama that changes something; return what admission is told of it."""
    import torch
    from peft import LoraConfig as PeftConfig
    from peft import get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=40,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            attention_bias=True,
        )
    )
    tensors = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    with warnings.catch_warnings():
        # PEFT says that embeddings are saved, and that some variants are new.
        warnings.simplefilter("ignore")
        adapted = get_peft_model(model, PeftConfig(r=4, **{"target_modules": ["q_proj", "v_proj"], **settings}))
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter)
        adapted.save_pretrained(folder / "adapter")
    (folder / "staging").mkdir()
    package = pack_adapter(
        folder / "adapter", base_id="tiny", base_revision=None, base_fingerprint="f" * 64, staging=folder / "staging"
    )
    config = config_facts((folder / "staging/adapter_config.json").read_bytes())
    weights = weight_facts((folder / "adapter/adapter_model.safetensors").read_bytes(), package.lora)
    return weights, config, package.lora, tensors
