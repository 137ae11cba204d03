"""Combine adapters of one base: ΔW = Σ wᵢ·sᵢ·BᵢAᵢ, module by module, in float64 and rounded once.

The factors are put side by side, with wᵢ·sᵢ in B, and reduced to the numerical rank of the sum, or cut to a lower one;
no ΔW is formed, and no base is needed. The result is read back and compared with the parents in another way.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from sdk.formats.adapter_files import CONFIG_FILE, PREFIX, SERVING_FILES, WEIGHTS_FILE
from sdk.lora.adapter import ModuleShape
from sdk.lora.adapter_config import canonical_text
from sdk.lora.combining import taken_whole
from sdk.lora.factors import Factors, FactorsError, joined, padded, reduced, stacked
from sdk.schemas.combination import CombineReport, CombineSpec
from sdk.schemas.events import Progress
from sdk.schemas.failures import FailureReason
from workers.pipelines.combining.config import settle_config
from workers.pipelines.combining.parents import OpenParent, Term, common_whole, modules_of, open_parents, terms_of
from workers.pipelines.combining.read_back import read_back
from workers.pipelines.errors import PipelineError
from workers.pipelines.libraries import library_versions
from workers.pipelines.model.torch_tensors import TORCH_TYPES, as_torch
from workers.pipelines.orders import CombineOrder, Host


@dataclass(frozen=True)
class _Sum:
    """ΔW of one module, with a pair of factors for each expert."""

    layout: ModuleShape
    experts: list[Factors]
    #: B's own bias, (out), if it has one.
    bias: Any
    kept_square: float
    square: float


def carry_out(order: CombineOrder, host: Host) -> CombineReport:
    """Write the combination of adapters of one base into the host's `out`, as PEFT would save it. Equal parents give equal
    bytes on one machine.

    A single parent of weight 1 is copied byte for byte. Raises PipelineError for adapters that don't fit each other, or
    if the result is not Σ wᵢ·ΔWᵢ.
    """
    started, spec, out = time.perf_counter(), order.spec, host.out
    parents = open_parents(order.parents, spec)
    _take_over_serving(parents, out)
    if taken_whole([parent.ingredient for parent in parents], spec):
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            shutil.copyfile(parents[0].folder / name, out / name)
        metrics = {"modules": float(len(modules_of(parents))), "combine_s": time.perf_counter() - started}
        return CombineReport(dtype=_name(TORCH_TYPES[_widest(parents)]), metrics=metrics, libraries=library_versions())
    dtype = torch.float32 if spec.dtype == "float32" else TORCH_TYPES[_widest(parents)]
    sums = _sums(parents, spec, host.report, keep=np.float64 if dtype == torch.float64 else np.float32)
    ranks = {name: max(one.rank for one in found.experts) for name, found in sums.items()}
    config, ranks = settle_config(parents, ranks, {name: found.layout.experts for name, found in sums.items()})
    host.report(Progress(phase="save", message="writing the combination"))
    (out / CONFIG_FILE).write_text(canonical_text(config), encoding="utf-8")
    _write(parents, sums, ranks, dtype, out / WEIGHTS_FILE)
    kept = {name: found.kept_square / found.square if found.square else 1.0 for name, found in sums.items()}
    host.report(Progress(phase="check", message="reading the combination back"))
    error = read_back(order.parents, out, expected_kept=kept if spec.method == "svd" else None)
    metrics = {
        "modules": float(len(sums)),
        "rank_max": float(max(ranks.values())),
        "read_back_error": error,
        "combine_s": time.perf_counter() - started,
    }
    if spec.method == "svd":
        square = sum(found.square for found in sums.values())
        metrics["kept_energy"] = sum(found.kept_square for found in sums.values()) / square if square else 1.0
        metrics["kept_energy_min"] = min(kept.values())
    return CombineReport(
        dtype=_name(dtype),
        metrics=metrics,
        kept_energy=kept if spec.method == "svd" else {},
        libraries=library_versions(),
    )


def _sums(
    parents: Sequence[OpenParent], spec: CombineSpec, on_progress: Callable[[Progress], None], *, keep: Any
) -> dict[str, _Sum]:
    """Return the sum of every module, its numbers in the type `keep`."""
    names = modules_of(parents)
    sums = {}
    for done, name in enumerate(names, start=1):
        layout, terms = terms_of(name, parents)
        try:
            sums[name] = _sum(layout, terms, spec, keep)
        except FactorsError as error:
            raise PipelineError(
                FailureReason.ADAPTER, f"{name} can't be added up: {error}; give smaller weights, or combine others."
            ) from error
        on_progress(Progress(phase="combine", step=done, total=len(names), unit="tensors"))
    return sums


def _sum(layout: ModuleShape, terms: Sequence[Term], spec: CombineSpec, keep: Any) -> _Sum:
    kept_square = square = 0.0
    experts = []
    for expert in range(layout.experts):
        whole = joined((term.factor, term.factors[expert]) for term in terms)
        if spec.method != "cat":
            found = reduced(whole, spec.rank)
            whole = found.factors
            kept_square, square = kept_square + found.kept_square, square + found.square
        # Numbers out of the type's range become infinite, and are refused before writing.
        with np.errstate(over="ignore"):
            experts.append(Factors(whole.b.astype(keep), whole.a.astype(keep)))
    biases = [(term.factor, term.bias) for term in terms if term.bias is not None]
    # B's bias adds s·bias, in the same way.
    bias = joined(biases).b.sum(axis=1) if biases else None
    return _Sum(layout, experts, bias, kept_square, square)


def _write(
    parents: Sequence[OpenParent], sums: dict[str, _Sum], ranks: dict[str, int], dtype: torch.dtype, path: Path
) -> None:
    tensors: dict[str, torch.Tensor] = {}
    for module, found in sums.items():
        whole = stacked([padded(one, ranks[module]) for one in found.experts])
        layout, prefix = found.layout, f"{PREFIX}{module}.lora_"
        a, b = (f"{prefix}embedding_{half}" if layout.embedding else f"{prefix}{half}.weight" for half in "AB")
        tensors[a] = torch.from_numpy(whole.a.reshape(-1, *layout.into)).to(dtype).contiguous()
        tensors[b] = torch.from_numpy(whole.b.reshape(layout.out[0], -1, *layout.out[1:])).to(dtype).contiguous()
        if found.bias is not None:
            tensors[f"{prefix}B.bias"] = torch.from_numpy(found.bias).to(dtype)
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise PipelineError(
                FailureReason.ADAPTER,
                f"{name} of the combination has numbers that {_name(dtype)} does not hold; give smaller weights, or the dtype float32.",
            )
    tensors |= {name: as_torch(tensor) for name, tensor in common_whole(parents).items()}
    save_file(tensors, path, metadata={"format": "pt"})


def _widest(parents: Sequence[OpenParent]) -> str:
    """Return the type that can hold the numbers of all parents."""
    found = {name for parent in parents for name in parent.adapter.dtypes}
    if len(found) == 1:
        return next(iter(found))
    return "F64" if "F64" in found else "F32"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _take_over_serving(parents: Sequence[OpenParent], out: Path) -> None:
    """Copy the files that are stored with an adapter for serving it, if all parents have the same."""
    for name in SERVING_FILES:
        paths = [parent.folder / name for parent in parents]
        if all(path.is_file() for path in paths) and len({path.read_bytes() for path in paths}) == 1:
            shutil.copyfile(paths[0], out / name)
