"""A Llama that libraries load and an adapter over it, both written without torch: for tests whose children alone compute."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from support import tiny

_HIDDEN, _INNER, _LAYERS = 64, 128, 2


def write_base(folder: Path) -> Path:
    """Write a random Llama of 2 layers, hidden size 64, tied embeddings, float32, into `folder`; return it."""
    vocabulary, random = tiny.save_tokenizer(folder), np.random.default_rng(3)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": _HIDDEN,
        "intermediate_size": _INNER,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": vocabulary,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "rms_norm_eps": 1e-6,
        "torch_dtype": "float32",
        "eos_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(config))
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, _HIDDEN),
        "model.norm.weight": (_HIDDEN,),
    }
    for layer in (f"model.layers.{number}" for number in range(_LAYERS)):
        shapes |= {f"{layer}.self_attn.{name}_proj.weight": (_HIDDEN, _HIDDEN) for name in "qkvo"}
        shapes |= {f"{layer}.mlp.{name}_proj.weight": (_INNER, _HIDDEN) for name in ("gate", "up")}
        shapes |= {
            f"{layer}.mlp.down_proj.weight": (_HIDDEN, _INNER),
            f"{layer}.input_layernorm.weight": (_HIDDEN,),
            f"{layer}.post_attention_layernorm.weight": (_HIDDEN,),
        }
    weights = {
        name: np.ones(shape, np.float32) if len(shape) == 1 else random.normal(0, 0.1, shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_adapter(folder: Path, base: Path, *, rank: int = 2) -> Path:
    """Write a random adapter of the values of all layers into `folder`, as PEFT would; return it."""
    random = np.random.default_rng(4)
    folder.mkdir()
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": ["v_proj"],
        "base_model_name_or_path": str(base),
        "peft_version": "0.21.0",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    weights = {
        f"base_model.model.model.layers.{layer}.self_attn.v_proj.lora_{part}.weight": random.normal(
            0, 0.3, shape
        ).astype(np.float32)
        for layer in range(_LAYERS)
        for part, shape in (("A", (rank, _HIDDEN)), ("B", (_HIDDEN, rank)))
    }
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder
