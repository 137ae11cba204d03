"""Variants of LoRA as options of a training, for a base of a family, and one path of each through the product."""

from __future__ import annotations

from pathlib import Path
from typing import Any

#: Families in which each variant is tried, as `support.families` names them.
FAMILIES = ("Llama", "Qwen3", "Gemma 3", "GPT-2", "Mixtral")
#: For families with other names: an adapted module, and a module of each layer with weights of its own.
_NAMES = {"GPT-2": ("c_attn", "ln_1")}
#: Families whose modules have biases.
BIASED = ("GPT-2",)


def variants(family: str, token: int, method: str = "lora") -> dict[str, dict[str, Any]]:
    """Return the options of each variant that a family can have; `token` is one that its rows have."""
    module, norm = _NAMES.get(family, ("q_proj", "input_layernorm"))
    found: dict[str, dict[str, Any]] = {
        "rsLoRA": {"use_rslora": True, "alpha": 4.0},
        "DoRA": {"use_dora": True},
        "EVA": {"init_lora_weights": "eva"},
        "EVA, rho 2": {"init_lora_weights": "eva", "eva_rho": 2.0},
        "patterns": {"rank_pattern": {module: 2}, "alpha_pattern": f"{module}=3"},
        "layers": {"layers_to_transform": [1]},
        "whole": {"modules_to_save": norm},
        "tokens": {"trainable_token_indices": token},
    }
    if method == "qlora":
        found["FP4"] = {"quant_type": "fp4", "double_quant": False}
    if family in BIASED:
        found |= {"bias": {"bias": "all"}, "bias of LoRA": {"bias": "lora_only"}}
    if method == "qlora":
        found["8 bits"] = {"quant_type": "int8"}
    return found


def token_of(base: Path, text: str = "count") -> int:
    """Return the first token of a text by the tokenizer of a base."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base)(text)["input_ids"][0]
