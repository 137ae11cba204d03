"""Bases and adapters of a few hundred bytes, written without torch: real files for everything that does not train."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HIDDEN = 8
CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN}
TENSORS = {
    "model.embed_tokens.weight": [16, HIDDEN],
    "model.layers.0.self_attn.q_proj.weight": [HIDDEN, HIDDEN],
    "model.layers.0.self_attn.v_proj.weight": [HIDDEN, HIDDEN],
    "model.layers.0.input_layernorm.weight": [HIDDEN],
    "lm_head.weight": [16, HIDDEN],
}


def write_safetensors(path: Path, shapes: Mapping[str, Sequence[int]], *, value: float = 0.5) -> Path:
    """Write float32 tensors filled with `value`; return the path."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, shape in shapes.items():
        count = 1
        for size in shape:
            count *= size
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [position, position + 4 * count]}
        position += 4 * count
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + struct.pack("<f", value) * (position // 4))
    return path


def write_base(folder: Path, *, value: float = 0.5, **config: Any) -> Path:
    """Write a base of one layer with a tokenizer file into `folder`; return it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    write_safetensors(folder / "model.safetensors", TENSORS, value=value)
    return folder


def write_adapter(folder: Path, *, value: float = 0.25, rank: int = 2, **config: Any) -> Path:
    """Write an adapter over `write_base`'s base into `folder`, as PEFT would; return it."""
    folder.mkdir(parents=True, exist_ok=True)
    modules = ["q_proj", "v_proj"]
    written = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": 4,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": modules,
        "base_model_name_or_path": str(folder.parent / "base"),
        "auto_mapping": None,
        "peft_version": "0.21.0",
        **config,
    }
    (folder / "adapter_config.json").write_text(json.dumps(written))
    shapes = {}
    for module in modules:
        prefix = f"base_model.model.model.layers.0.self_attn.{module}"
        shapes[f"{prefix}.lora_A.weight"] = [rank, HIDDEN]
        shapes[f"{prefix}.lora_B.weight"] = [HIDDEN, rank]
    write_safetensors(folder / "adapter_model.safetensors", shapes, value=value)
    return folder
