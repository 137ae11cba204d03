"""An adapter's files read by safetensors' own reader, with ranks and scales by PEFT's rules, for checking written adapters.

It shares nothing with `sdk.lora.adapter` on purpose: a fault there would be in what is written and in what proves it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open

from sdk.formats.adapter_files import CONFIG_FILE, PREFIX, WEIGHTS_FILE

#: The relative error allowed for a written adapter, by its type: a few roundings of both factors.
TOLERANCE = {
    torch.float64: 1e-9,
    torch.float32: 1e-6,
    torch.float16: 4 * 2.0**-11,
    torch.bfloat16: 4 * 2.0**-8,
}
_HALVES = (("lora_A.weight", "lora_B.weight"), ("lora_embedding_A", "lora_embedding_B"))


class PeftAdapter:
    """An adapter's files as PEFT would read them."""

    def __init__(self, folder: Path) -> None:
        self._config = json.loads((folder / CONFIG_FILE).read_bytes())
        self._file = cast("Any", safe_open(folder / WEIGHTS_FILE, framework="pt"))
        names = set(self._file.keys())
        self.modules = {
            name.removesuffix(f".{a}"): (a, b) for name in names for a, b in _HALVES if name.endswith(f".{a}")
        }
        self.biases = {name for name in names if name.endswith(".lora_B.bias")}

    @property
    def dtype(self) -> torch.dtype:
        """The type of its first matrix."""
        return self._tensor(next(f"{module}.{a}" for module, (a, _) in sorted(self.modules.items()))).dtype

    def times(self, module: str, x: torch.Tensor, experts: int) -> torch.Tensor:
        """Return ΔW·x of each expert, (experts, out, probes)."""
        b, a, scale = self.factors(module, experts)
        return scale * (b @ (a @ x))

    def factors(self, module: str, experts: int) -> tuple[torch.Tensor, torch.Tensor, float]:
        """Return B (experts, out, r), A (experts, r, in) and s, as PEFT's layers read them."""
        a, b = (self._tensor(f"{module}.{half}").double() for half in self.modules[module])
        a = a.reshape(experts, len(a) // experts, -1)
        rank = a.shape[1]
        b = b.reshape(len(b), rank, experts).permute(2, 0, 1)
        return b, a, self.scale(module, rank)

    def scale(self, module: str, rank: int) -> float:
        """Return s of a module of this rank."""
        name, _ = self._called(module)
        patterns = self._config.get("alpha_pattern") or {}
        alpha = _first(patterns, name, self._config["lora_alpha"])
        return float(alpha) / (math.sqrt(rank) if self._config.get("use_rslora") else rank)

    def experts(self, module: str) -> int:
        """Return how many pairs of factors a module's A and B contain, given the configuration's rank."""
        name, by_parameter = self._called(module)
        if not by_parameter:
            return 1
        patterns = self._config.get("rank_pattern") or {}
        return int(self.width(module) // _first(patterns, name, self._config["r"]))

    def _called(self, module: str) -> tuple[str, bool]:
        """Return the name of a module in patterns, and whether it is the name of one of its parameters."""
        plain = module.removeprefix(PREFIX).replace(".base_layer", "")
        if any(f".{plain}".endswith(f".{name}") for name in self._config.get("target_modules") or []):
            return plain, False
        for name in sorted(self._config.get("target_parameters") or []):
            owner, _, parameter = name.rpartition(".")
            if not owner or f".{plain}".endswith(f".{owner}"):
                return f"{plain}.{parameter}", True
        return plain, False

    def width(self, module: str) -> int:
        """Return the rows of A."""
        return len(self._tensor(f"{module}.{self.modules[module][0]}"))

    def inputs(self, module: str) -> int:
        """Return the columns of A, a kernel's flattened."""
        return int(self._tensor(f"{module}.{self.modules[module][0]}")[0].numel())

    def bias(self, name: str) -> torch.Tensor:
        """Return s·bias of B's own bias."""
        module = name.removesuffix(".lora_B.bias")
        return self.scale(module, self.width(module)) * self._tensor(name).double()

    def _tensor(self, name: str) -> Any:
        return self._file.get_tensor(name)


def _first(patterns: Mapping[str, float], name: str, default: float) -> float:
    """Return the value of the first matching pattern, tried as in PEFT's `get_pattern_key`; admission refuses slow ones."""
    return next((patterns[key] for key in sorted(patterns) if re.match(rf"(.*\.)?({key})$", name)), default)


def singular_values(b: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
    """Return σ of each expert's B·A, the largest first."""
    values: torch.Tensor = torch.linalg.svdvals(torch.linalg.qr(b).R @ torch.linalg.qr(a.mT).R.mT)
    return values
