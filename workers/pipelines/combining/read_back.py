"""Reading back the result and comparing it with the parents: B·(A·x) with Σ wᵢ·sᵢ·Bᵢ·(Aᵢ·x) for random x, in float64.

It shares nothing with the writer, nor with `sdk.lora.adapter`, on purpose: a fault there would be in what is written and in
what proves it. Files are read by safetensors' own reader, with ranks and scales by PEFT's rules.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open

from sdk.formats.adapter_files import CONFIG_FILE, PREFIX, WEIGHTS_FILE
from sdk.schemas.failures import FailureReason
from workers.pipelines.errors import PipelineError
from workers.pipelines.orders import ParentFolder

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


#: The number of columns of x: that a difference shows in none of them is practically impossible.
_PROBES = 8
#: If terms cancel to less than this share of them, the rest is rounding.
_ROUNDING = 1e-12
#: How far a share of the energy may be from the reported one.
_ENERGY = 1e-6


def read_back(given: Sequence[ParentFolder], out: Path, *, expected_kept: Mapping[str, float] | None) -> float:
    """Return the relative error of a written combination, compared with Σ wᵢ·ΔWᵢ, in the module where it is largest.

    If it was cut, `expected_kept` is the share of the energy by module: then ΔW is compared with the sum's projection
    on B's columns, and the share is computed again. Raises PipelineError, naming the module.
    """
    written = PeftAdapter(out)
    parents = [(parent.weight, PeftAdapter(parent.folder)) for parent in given]
    expected = {module for _, parent in parents for module in parent.modules}
    if wrong := sorted(expected ^ set(written.modules)):
        raise _wrong(wrong[0], "is in only one of the two")
    tolerance, worst = TOLERANCE[written.dtype], 0.0
    generator = torch.Generator().manual_seed(0)
    for module in sorted(expected):
        experts = written.experts(module)
        x = torch.randn(written.inputs(module), _PROBES, generator=generator, dtype=torch.float64)
        having = [(weight, parent) for weight, parent in parents if module in parent.modules]
        terms = torch.stack([weight * parent.times(module, x, experts) for weight, parent in having])
        said = terms.sum(0)
        found = written.times(module, x, experts)
        if expected_kept is not None:
            said = _projected(said, written.factors(module, experts)[0])
            _require_kept(module, having, written, experts, expected_kept, tolerance)
        worst = max(worst, _require_near(module, found, said, terms, tolerance))
    for name in sorted({name for _, parent in parents for name in parent.biases} | written.biases):
        terms = [weight * parent.bias(name) for weight, parent in parents if name in parent.biases]
        if not terms or name not in written.biases:
            raise _wrong(name, "is in only one of the two")
        added = torch.stack(terms)
        worst = max(worst, _require_near(name, written.bias(name), added.sum(0), added, tolerance))
    return worst


def _require_near(module: str, found: torch.Tensor, said: torch.Tensor, terms: torch.Tensor, tolerance: float) -> float:
    """Return how far the two are apart, for stacked experts the largest error; `terms` are the summands. Raises
    PipelineError.
    """
    worst = 0.0
    stacked = found.dim() == 3
    for expert in range(len(found) if stacked else 1):
        one, other, parts = (found[expert], said[expert], terms[:, expert]) if stacked else (found, said, terms)
        # If terms cancel, only rounding is left here, too.
        distance = max(0.0, float((one - other).norm()) - _ROUNDING * float(parts.norm()))
        error = distance / max(float(other.norm()), 1e-300)
        if not error <= tolerance:
            which = f"{module}, expert {expert}," if stacked and len(found) > 1 else module
            raise _wrong(which, f"is off by {error:.1e} of its size, and {tolerance:.0e} is allowed")
        worst = max(worst, error)
    return worst


def _projected(said: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the part of ΔW·x in the space of B's columns, expert by expert."""
    u, sigma, _ = torch.linalg.svd(b, full_matrices=False)
    # Columns of zeros, from padding to a rank, have no direction.
    u = u * (sigma > 1e-9 * sigma.amax(-1, keepdim=True)).unsqueeze(-2)
    return u @ (u.mT @ said)


def _require_kept(
    module: str,
    having: Sequence[tuple[float, PeftAdapter]],
    written: PeftAdapter,
    experts: int,
    expected: Mapping[str, float],
    tolerance: float,
) -> None:
    """Compare the share of the energy with the reported one, and with the most that a rank can keep. Raises PipelineError."""
    parts = [(weight, parent.factors(module, experts)) for weight, parent in having]
    b = torch.cat([weight * scale * b for weight, (b, _, scale) in parts], dim=2)
    a = torch.cat([a for _, (_, a, _) in parts], dim=1)
    b_kept, a_kept, scale = written.factors(module, experts)
    squares = singular_values(b, a) ** 2
    # If all terms cancel, only rounding is left, of which nothing need be kept.
    noise = max(_ROUNDING, max(b.shape[1], a.shape[2]) * torch.finfo(b.dtype).eps) * (_norms(b, 1) * _norms(a, 2)).sum(
        -1
    )
    squares = torch.where(squares > noise.unsqueeze(-1) ** 2, squares, 0.0)
    whole, rank = float(squares.sum()), a_kept.shape[1]
    kept = float((singular_values(scale * b_kept, a_kept) ** 2).sum())
    found, most = (kept / whole, float(squares[:, :rank].sum()) / whole) if whole else (1.0, 1.0)
    said, room = expected[module.removeprefix(PREFIX)], _ENERGY + 2 * tolerance
    if not (abs(found - said) <= room and found >= most - room):
        raise _wrong(
            module,
            f"keeps {found:.7f} of the energy, of {most:.7f} that the rank {rank} can keep, and {said:.7f} was reported",
        )


def _norms(matrix: torch.Tensor, dim: int) -> torch.Tensor:
    """Return the norms along a dimension; their squares may be out of float64's range."""
    largest = matrix.abs().amax(dim, keepdim=True).clamp(min=1e-300)
    return (matrix / largest).norm(dim=dim) * largest.squeeze(dim)


def _wrong(module: str, what: str) -> PipelineError:
    return PipelineError(
        FailureReason.VERIFICATION,
        f"What was written is not the sum of the parents: {module.removeprefix(PREFIX)} {what}; "
        "report this with the job's log, or combine with the method linear and the dtype float32.",
    )
