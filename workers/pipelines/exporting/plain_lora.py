"""An adapter as a plain LoRA of one rank: padded with zeros if there is room, otherwise cut to the nearest ΔW of that rank.

Everything is computed in float64 and rounded once. No ΔW of a LoRA is formed; a DoRA's is, one module after the other.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save_file

from sdk.errors import InvalidInput
from sdk.formats.adapter_files import CONFIG_FILE, SERVING_FILES, WEIGHTS_FILE
from sdk.lora.adapter import DeltaW
from sdk.lora.adapter_config import canonical_text
from sdk.lora.factors import Factors, FactorsError, joined, padded, reduced, stacked
from sdk.lora.plain_lora import PlainPlan, plan_plain
from sdk.lora.tensors import Tensor
from sdk.schemas.export import GgufDtype, PlainLoraReport, PlainLoraRequest
from workers.pipelines.cpu.arithmetic import one_thread
from workers.pipelines.exporting.numbers import SAME_DTYPE
from workers.pipelines.exporting.plain_read_back import read_back

if TYPE_CHECKING:
    from workers.pipelines.exporting.dora import MagnitudeDeltas

_TORCH: dict[GgufDtype, torch.dtype] = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
#: The ‖rounded − x‖/‖x‖ that counts as mere rounding: four times the largest relative rounding of a normal number.
_ROUNDING: dict[GgufDtype, float] = {"f32": 2.0**-22, "f16": 2.0**-9, "bf16": 2.0**-6}
#: A share of the energy that counts as all of it, given the rounding of sums.
_WHOLE = 1 - 1e-12
#: A smaller share of the energy is worth a remark.
_LITTLE = 0.9


@dataclass(frozen=True)
class _Plain:
    """One module, ready to be written."""

    #: The factors of each expert, with the rank and scale of the plain LoRA.
    experts: list[Factors]
    #: Σσ² of what was kept and of everything, divided by the square of the plain scale.
    kept_square: float
    square: float
    cut: bool


def export_plain_lora(request: PlainLoraRequest) -> PlainLoraReport:
    """Write the plain LoRA into the folder `out` and read it back.

    Raises InvalidInput, NotFound, VerificationFailed, PipelineError for a base that the adapter does not fit, OSError.
    """
    folder, out = Path(request.folder), Path(request.out)
    plan = plan_plain(folder, request.rank)
    dtype = request.dtype or _own_dtype(plan)
    found: dict[str, _Plain] = {}
    tensors: dict[str, torch.Tensor] = {}
    # A DoRA's matrices are decomposed whole, for which threads are useful.
    with _over_base(request, plan) as deltas, nullcontext() if deltas else one_thread():
        for name, product in plan.products.items():
            one = _of_magnitude(plan, name, deltas) if deltas else _of_factors(plan, name, product)
            found[name] = one
            tensors |= dict(_tensors(product, name, one, dtype))
        _write(out, plan, tensors, folder)
        kept = {name: one.kept_square / one.square if one.square else 1.0 for name, one in found.items()}
        error = read_back(folder, out, kept, deltas)
    squares = sum(one.square for one in found.values())
    energy = sum(one.kept_square for one in found.values()) / squares if squares else 1.0
    cut = sum(one.cut for one in found.values())
    return PlainLoraReport(
        rank=plan.rank,
        alpha=plan.alpha,
        dtype=dtype,
        modules=len(found),
        size_bytes=sum(path.stat().st_size for path in out.iterdir()),
        cut=cut,
        kept_energy=energy,
        kept_by_module=kept if cut else {},
        error=error,
        notes=[*_notes(kept), *_notes_of_base(request, plan)],
    )


def _over_base(request: PlainLoraRequest, plan: PlainPlan) -> AbstractContextManager[MagnitudeDeltas | None]:
    if not plan.lora.use_dora:
        return nullcontext()
    # This needs PEFT and transformers; other adapters don't.
    from workers.pipelines.exporting.dora import over_base

    return over_base(request, plan)


def _notes(kept: dict[str, float]) -> list[str]:
    least = min(kept, key=lambda name: kept[name])
    if kept[least] >= _LITTLE:
        return []
    return [f"{least} keeps {kept[least]:.0%} of the energy of its ΔW; a higher rank keeps more, and a merge all of it"]


def _notes_of_base(request: PlainLoraRequest, plan: PlainPlan) -> list[str]:
    if not plan.lora.use_dora or request.quantization is None or request.quantization.type != "int8":
        return []
    return ["it was trained over the base in int8, and its ΔW is over the weights as they are stored, as a merge's"]


def _own_dtype(plan: PlainPlan) -> GgufDtype:
    """Return the adapter's type if no number changes."""
    same = all(plan.is_exact(product) and plan.factor(product) == 1.0 for product in plan.products.values())
    return SAME_DTYPE.get(next(iter(plan.dtypes)), "f32") if same and len(plan.dtypes) == 1 else "f32"


def _of_factors(plan: PlainPlan, name: str, product: DeltaW[Tensor]) -> _Plain:
    factor, experts, kept_square, square, cut = plan.factor(product), [], 0.0, 0.0, False
    for given in product.factors():
        try:
            whole = joined([(factor, given)])
            short = reduced(whole, plan.rank)
        except FactorsError as error:
            raise InvalidInput(
                f"{name} of the adapter can't be read: {error}; train it again", param="target"
            ) from error
        square += short.square
        if plan.is_exact(product):
            kept_square += short.square
            experts.append(padded(whole, plan.rank))
        else:
            kept_square += short.kept_square
            cut |= short.kept_square < _WHOLE * short.square
            experts.append(padded(short.factors, plan.rank))
    return _Plain(experts, kept_square, square, cut)


def _of_magnitude(plan: PlainPlan, name: str, deltas: MagnitudeDeltas) -> _Plain:
    short = deltas.nearest(name, plan.rank)
    return _Plain([padded(short.factors, plan.rank)], short.kept_square, short.square, cut=True)


def _tensors(product: DeltaW[Tensor], name: str, one: _Plain, dtype: GgufDtype) -> Iterator[tuple[str, torch.Tensor]]:
    whole, layout = stacked(one.experts), product.layout
    shapes = {
        product.a.name: (whole.a, (-1, *layout.into)),
        product.b.name: (whole.b, (layout.out[0], -1, *layout.out[1:])),
    }
    for key, (values, shape) in shapes.items():
        tensor = torch.from_numpy(np.ascontiguousarray(values.reshape(shape)))
        rounded = tensor.to(_TORCH[dtype]).contiguous()
        if not torch.isfinite(tensor).all():
            raise InvalidInput(f"{name} holds NaN or an infinity; train it again", param="target")
        if not torch.isfinite(rounded).all():
            raise InvalidInput(f"{name} holds numbers too large for {dtype}; export with --dtype f32", param="dtype")
        wide = tensor.double()
        if (rounded.double() - wide).norm() > _ROUNDING[dtype] * wide.norm():
            raise InvalidInput(
                f"{name} holds numbers too small for {dtype}, which would be lost; export with --dtype f32",
                param="dtype",
            )
        yield key, rounded


def _write(out: Path, plan: PlainPlan, tensors: dict[str, Any], folder: Path) -> None:
    out.mkdir()
    (out / CONFIG_FILE).write_text(canonical_text(plan.config), encoding="utf-8")
    save_file(tensors, out / WEIGHTS_FILE, metadata={"format": "pt"})
    for name in SERVING_FILES:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)
