"""Tiny mixtures of experts, and adapters over them in the layout of each release of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support import tiny

#: By family: the names of a single expert's matrices on disk, gate, up and down.
SINGLE = {
    "mixtral": ("model.layers.{layer}.block_sparse_moe.experts.{expert}.{name}", ("w1", "w3", "w2")),
    "qwen3_moe": ("model.layers.{layer}.mlp.experts.{expert}.{name}", ("gate_proj", "up_proj", "down_proj")),
}
EXPERTS, LAYERS = 4, 2


def save_experts(family: str, folder: Path) -> Path:
    """Write a mixture of 4 experts, of 2 layers and hidden size 64, in float32 with a tokenizer; return the folder."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    said: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_experts_per_tok": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.1,
        "eos_token_id": 0,
    }
    own = {
        "mixtral": {"num_local_experts": EXPERTS},
        "qwen3_moe": {"num_experts": EXPERTS, "moe_intermediate_size": 48, "head_dim": 16},
    }
    torch.manual_seed(3)
    config = AutoConfig.for_model(family, vocab_size=tiny.save_tokenizer(folder), **said, **own[family])
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def save_wide_routers(folder: Path) -> Path:
    """Write a mixture of 4 experts in bfloat16 whose routers transformers keeps in float32; return the folder."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(3)
    config = AutoConfig.for_model(
        "ernie4_5_moe",
        vocab_size=tiny.save_tokenizer(folder),
        hidden_size=64,
        intermediate_size=96,
        moe_intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        moe_num_experts=EXPERTS,
        moe_k=2,
        moe_layer_start_index=0,
        max_position_embeddings=256,
        initializer_range=0.1,
        eos_token_id=0,
    )
    model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    for layer in model.model.layers:
        layer.mlp.gate.weight.data = 0.1 * torch.randn(EXPERTS, 64)
    model.save_pretrained(folder)
    return folder


def save_single_experts(family: str, base: Path, folder: Path, *, rank: int = 3, alpha: int = 6) -> Path:
    """Write an adapter over the query and each matrix of each single expert, as releases before 5 did; return the
    folder.
    """
    import torch
    from safetensors.torch import load_file, save_file

    pattern, names = SINGLE[family]
    weights = load_file(base / "model.safetensors")
    generator = torch.Generator().manual_seed(7)
    tensors = {}
    for layer in range(LAYERS):
        modules = [pattern.format(layer=layer, expert=expert, name=name) for expert in range(EXPERTS) for name in names]
        for module in (*modules, f"model.layers.{layer}.self_attn.q_proj"):
            out, into = weights[f"{module}.weight"].shape
            prefix = f"base_model.model.{module}"
            tensors[f"{prefix}.lora_A.weight"] = 0.2 * torch.randn(rank, into, generator=generator)
            tensors[f"{prefix}.lora_B.weight"] = 0.2 * torch.randn(out, rank, generator=generator)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "org/experts",
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted([*names, "q_proj"]),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
