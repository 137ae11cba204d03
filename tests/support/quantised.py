"""Bases that are stored in 4 bits, as transformers saves them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any


def pack_base(base: Path, to: Path, *, compute_dtype: str = "bfloat16", **recipe: Any) -> Path:
    """Load a base in 4 bits and save it in 4 bits, with its tokenizer; return the folder."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    said = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, **recipe}
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=getattr(torch, compute_dtype), **said)
    model = AutoModelForCausalLM.from_pretrained(base, quantization_config=config, dtype=torch.bfloat16)
    model.save_pretrained(to)
    for path in base.iterdir():
        if not (to / path.name).exists():
            shutil.copyfile(path, to / path.name)
    return to


def unpacked(folder: Path) -> dict[str, Any]:
    """Return every weight of a base by name; packed ones are dequantised by bitsandbytes from the bytes of the file."""
    from bitsandbytes.functional import QuantState, dequantize_4bit
    from safetensors.torch import load_file

    tensors = load_file(folder / "model.safetensors")
    found = {}
    for name, tensor in tensors.items():
        parts = {key: value for key, value in tensors.items() if key.startswith(f"{name}.")}
        if not parts and not any(name.startswith(f"{other}.") for other in tensors if other.endswith(".weight")):
            found[name] = tensor
        elif parts:
            found[name] = dequantize_4bit(tensor, QuantState.from_dict(parts, device=tensor.device))
    return found
