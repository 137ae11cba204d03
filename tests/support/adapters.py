"""A base that is only described, and adapters over it that are made with numpy: real files, no torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from sdk.schemas.catalog import BaseRegistration
from sdk.schemas.training import TrainingSpec
from sdk.schemas.training_report import DatasetUse

#: By tensor: its shape (out, in), as in the headers of the base's weight files.
BASE_TENSORS = {
    "model.layers.0.self_attn.q_proj.weight": [8, 6],
    "model.layers.0.self_attn.v_proj.weight": [4, 6],
    "model.embed_tokens.weight": [32, 6],
}
RANK = 2
#: The request for a training with the result that `save_adapter` writes.
SPEC = TrainingSpec(method="lora", rank=RANK, alpha=4.0, dropout=0.0, targets="q_proj,v_proj")

#: What a lineage says about such a training, with nothing left open.
ASKED = {
    "objective": "sft",
    "method": "lora",
    "rank": RANK,
    "alpha": 4.0,
    "dropout": 0.0,
    "targets": "q_proj,v_proj",
    "epochs": 3.0,
    "max_steps": None,
    "warmup_ratio": 0.03,
    "schedule": "cosine",
    "lr": 2e-4,
    "batch_size": 4,
    "grad_accum": 4,
    "effective_batch": 16,
    "seed": 0,
}


def digest(text: str) -> str:
    """Return a SHA-256 that stands for something."""
    return hashlib.sha256(text.encode()).hexdigest()


def base_registration(name: str = "tiny", **changed: Any) -> BaseRegistration:
    """Return a base of the hub, described."""
    described: dict[str, Any] = {
        "id": name,
        "revision": "0" * 40,
        "fingerprint": digest(f"{name}: base"),
        "weights_digest": digest(f"{name}: weights"),
        "architecture": "LlamaForCausalLM",
        "location": f"hf://tests/{name}@{'0' * 40}",
        "config": {"model_type": "llama", "hidden_size": 6},
        "tensors": BASE_TENSORS,
        "size_bytes": 4096,
    }
    return BaseRegistration.model_validate(described | changed)


def use_of(data: str) -> DatasetUse:
    """Return what a worker says about the dataset that it trained on."""
    return DatasetUse(digest=data, rows=1, supervised_tokens=3)


def lora_tensors(seed: int = 0, *, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Return A (r, in) and B (out, r) of both target modules, as PEFT names them."""
    random = np.random.default_rng(seed)
    tensors = {}
    for module in ("q_proj", "v_proj"):
        out, into = BASE_TENSORS[f"model.layers.0.self_attn.{module}.weight"]
        prefix = f"base_model.model.model.layers.0.self_attn.{module}"
        tensors[f"{prefix}.lora_A.weight"] = random.normal(size=(RANK, into)).astype(dtype)
        tensors[f"{prefix}.lora_B.weight"] = random.normal(size=(out, RANK)).astype(dtype)
    return tensors


def lora_config(**changed: Any) -> dict[str, Any]:
    """Return the values of an `adapter_config.json`."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny",
        "r": RANK,
        "lora_alpha": 4,
        "lora_dropout": 0.0,
        "target_modules": ["q_proj", "v_proj"],
        "bias": "none",
        "auto_mapping": None,
        "inference_mode": True,
        **changed,
    }


def save_adapter(folder: Path, seed: int = 0, *, tensors: dict[str, np.ndarray] | None = None, **config: Any) -> Path:
    """Write an adapter as PEFT's save_pretrained does; each seed gives different bytes. Return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(lora_config(**config)), encoding="utf-8")
    save_file(lora_tensors(seed) if tensors is None else tensors, folder / "adapter_model.safetensors")
    return folder
