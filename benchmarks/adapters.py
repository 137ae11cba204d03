"""What `serving.py` fills registries of ours with: a base that is only described, and tiny adapters over it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from sdk.client import Client
from sdk.pushing.pack import pack_adapter
from sdk.schemas.catalog import BaseRegistration, Publication, Published

#: Files of weights that the adapters are made of; their configs differ.
_WEIGHTS = 4
_RANK = 2
#: Target module to (out, in).
_SHAPES = {"q_proj": (8, 6), "v_proj": (4, 6)}


def seed(client: Client, scratch: Path) -> None:
    """Register the base, and publish one version as `bench@production`."""
    client.bases.register(_base())
    client.push(_save(scratch / "bench", 0), "bench", base="tiny")
    client.set_alias("bench", "production", 1)


def store(client: Client, adapter: str, count: int, scratch: Path) -> list[dict[str, Any]]:
    """Publish different adapters as versions of `adapter`; return what was said of each, as JSON values."""
    base = _base()
    publications = []
    for number in range(count):
        staging = scratch / "staging" / str(number)
        staging.mkdir(parents=True)
        package = pack_adapter(
            _save(scratch / "stored" / str(number), number),
            base_id=base.id,
            base_revision=base.revision,
            base_fingerprint=base.fingerprint,
            staging=staging,
        )
        publication = Publication(
            adapter=adapter,
            upload=client.uploader.upload(package.sources, "uploading"),
            manifest=package.manifest,
            lora=package.lora,
            metrics={"loss": 1.25},
        )
        client.call("POST", "/versions", Published, body=publication)
        publications.append(publication.model_dump(mode="json"))
    return publications


def _base() -> BaseRegistration:
    def digest(text: str) -> str:
        return hashlib.sha256(text.encode()).hexdigest()

    return BaseRegistration(
        id="tiny",
        revision="0" * 40,
        fingerprint=digest("tiny: base"),
        weights_digest=digest("tiny: weights"),
        architecture="LlamaForCausalLM",
        location=f"hf://tests/tiny@{'0' * 40}",
        config={"model_type": "llama"},
        tensors={f"model.layers.0.self_attn.{module}.weight": list(shape) for module, shape in _SHAPES.items()},
        size_bytes=4096,
    )


def _save(folder: Path, number: int) -> Path:
    """Write an adapter as PEFT does: one of a few files of weights, under a config of its own."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(number % _WEIGHTS)
    tensors = {}
    for module, (out, into) in _SHAPES.items():
        prefix = f"base_model.model.model.layers.0.self_attn.{module}"
        tensors[f"{prefix}.lora_A.weight"] = random.normal(size=(_RANK, into)).astype("float32")
        tensors[f"{prefix}.lora_B.weight"] = random.normal(size=(out, _RANK)).astype("float32")
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": _RANK,
        "lora_alpha": 4,
        "lora_dropout": number / 1_000_000,
        "target_modules": list(_SHAPES),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
