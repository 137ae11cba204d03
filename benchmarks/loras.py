"""What `artifacts.py` moves: adapters of a given size, of random numbers, over bases that are only described."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sdk.schemas.catalog import BaseRegistration

WEIGHTS_FILE = "adapter_model.safetensors"

_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj")
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Shape:
    """A base of square attention weights, and the rank of the adapters over it."""

    base: str
    layers: int
    hidden: int
    rank: int

    @property
    def data_bytes(self) -> int:
        """Of an adapter's tensors."""
        return self.layers * len(_MODULES) * 2 * self.rank * self.hidden * _FLOAT_BYTES

    def registration(self) -> BaseRegistration:
        """What is registered of the base: its shapes, and no file."""
        return BaseRegistration(
            id=self.base,
            fingerprint=hashlib.sha256(f"{self.base}: base".encode()).hexdigest(),
            weights_digest=hashlib.sha256(f"{self.base}: weights".encode()).hexdigest(),
            architecture="LlamaForCausalLM",
            config={"model_type": "llama"},
            tensors={f"{module}.weight": [self.hidden, self.hidden] for module in self._modules()},
        )

    def write(self, folder: Path, seed: int) -> Path:
        """Write an adapter as PEFT does, one tensor at a time; another seed gives other numbers throughout."""
        folder.mkdir(parents=True)
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self.base,
            "r": self.rank,
            "lora_alpha": 2 * self.rank,
            "target_modules": list(_MODULES),
        }
        (folder / "adapter_config.json").write_text(json.dumps(config))
        shapes = {
            f"base_model.model.{module}.lora_{half}.weight": shape
            for module in self._modules()
            for half, shape in (("A", (self.rank, self.hidden)), ("B", (self.hidden, self.rank)))
        }
        each = self.rank * self.hidden * _FLOAT_BYTES
        header = {
            name: {"dtype": "F32", "shape": shape, "data_offsets": [number * each, (number + 1) * each]}
            for number, (name, shape) in enumerate(shapes.items())
        }
        text = json.dumps(header).encode()
        # The data begin at a multiple of eight bytes, as safetensors itself writes them.
        text += b" " * (-len(text) % 8)
        random = np.random.default_rng(seed)
        with (folder / WEIGHTS_FILE).open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for shape in shapes.values():
                file.write(random.standard_normal(shape, dtype="f4").data)
        return folder

    def _modules(self) -> Iterator[str]:
        for layer in range(self.layers):
            for module in _MODULES:
                yield f"model.layers.{layer}.self_attn.{module}"


#: 50 MB, and 2 GB.
USUAL = Shape("bench-usual", layers=24, hidden=2048, rank=32)
LARGE = Shape("bench-large", layers=30, hidden=8192, rank=256)
