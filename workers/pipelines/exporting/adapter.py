"""An adapter as a GGUF file: `blk.0.attn_q.weight.lora_a` and `.lora_b` for each module, and one α."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from sdk.formats.adapter_files import TEMPLATE_FILE
from sdk.lora.gguf_adapters import GgufAdapterPlan, GgufModule, plan_adapter
from sdk.lora.gguf_models import GgufModel, adapted_model
from sdk.schemas.export import ExportReport, ExportRequest, GgufDtype
from workers.pipelines.exporting.gguf_file import (
    Planned,
    Value,
    described,
    differs,
    gguf_name,
    number,
    read_again,
    real,
    text,
    whole,
    write,
)
from workers.pipelines.exporting.numbers import exact, halves, neighbours, rounded, rounding_error

_TEMPLATE_NOTE = (
    "the file has no chat template; if the adapter's differs from the base's, give llama.cpp the one in the adapter's folder: "
    f"--chat-template-file {TEMPLATE_FILE}"
)
#: 2⁻ᵖ for a type with p significant bits: the most that rounding may change a number, as a share of it.
_ROUNDING: dict[GgufDtype, float] = {"f32": 2.0**-24, "f16": 2.0**-11, "bf16": 2.0**-8}
#: How far a product in float64 may differ between two ways of computing it, as a share of what rounding allows.
_OF_DOUBLES = 1e-6
#: Half the smallest step of a type, which bounds the rounding of small numbers.
_LEAST: dict[GgufDtype, float] = {"f32": 2.0**-150, "f16": 2.0**-25, "bf16": 2.0**-134}


def export_adapter(request: ExportRequest) -> ExportReport:
    """Write an adapter's file and read it back. Raises InvalidInput, InvalidBase, VerificationFailed, OSError."""
    model, folder, out = adapted_model(request.config), Path(request.folder), Path(request.out)
    plan, dtype = plan_adapter(folder, model), request.dtype or "f32"
    names = {module.module: gguf_name(model, f"{module.name}.weight") for module in plan.modules}
    tensors = [
        tensor
        for module in plan.modules
        for tensor in _tensors(module, plan.factor(module), names[module.module], dtype)
    ]
    write(out, model.architecture, _keys(request, plan, dtype), tensors)
    worst = read_back(out, plan, model, names, dtype)
    return ExportReport(
        architecture=model.architecture,
        dtype=dtype,
        tensors=len(tensors),
        size_bytes=out.stat().st_size,
        rounding=worst,
        notes=[_TEMPLATE_NOTE] if (folder / TEMPLATE_FILE).is_file() else [],
    )


def _keys(request: ExportRequest, plan: GgufAdapterPlan, dtype: GgufDtype) -> dict[str, Value]:
    keys = gguf.Keys
    found = {
        **described(gguf.GGUFType.ADAPTER, request.name, dtype),
        keys.Adapter.TYPE: text("lora"),
        keys.Adapter.LORA_ALPHA: real(plan.alpha),
    }
    if request.base_name:
        found[keys.General.BASE_MODEL_COUNT] = number(1)
        found[keys.General.BASE_MODEL_NAME.format(id=0)] = text(request.base_name)
    return found


def _tensors(module: GgufModule, factor: float, name: str, dtype: GgufDtype) -> list[Planned]:
    """Return a module's two tensors: a of (r, in), or (entries, r) for embeddings, and b of (out, r)."""
    a, b = module.a.rows().widened(), module.b.rows().widened()
    if module.embedding:
        # llama.cpp looks up a row of `a` for each token.
        a = a.T
    if module.heads is not None:
        b = b[neighbours(len(b), module.heads)]
    if factor != 1.0:
        b = b.astype("<f8") * factor
    found = []
    for half, values in (("a", a), ("b", b)):
        written = rounded(values, dtype, called=f"{half.upper()} of {module.module}")
        found.append(whole(f"{name}.lora_{half}", written, dtype))
    return found


def read_back(path: Path, plan: GgufAdapterPlan, model: GgufModel, names: dict[str, str], dtype: GgufDtype) -> float:
    """Compare a written file with an adapter; return the largest error, as a share of what rounding allows.

    Each number must be the nearest one. And for each module (α/r)·b·(a·x), with α and r as llama.cpp reads them from the file, must
    equal s·B·(A·x) in float64, for a random x that is the same in each run. Raises VerificationFailed that names the module.
    """
    tensors = {f"{name}.lora_{half}" for name in names.values() for half in "ab"}
    written = read_again(path, model.architecture, tensors, kind="adapter")
    if written.value(gguf.Keys.Adapter.TYPE) != "lora":
        raise differs("its kind or architecture", "adapter")
    alpha = float(written.value(gguf.Keys.Adapter.LORA_ALPHA) or 0.0)
    random, worst = np.random.default_rng(0), 0.0
    for module in plan.modules:
        name = names[module.module]
        raw_a, raw_b = (written.rows(f"{name}.lora_{half}") for half in "ab")
        if module.embedding:
            raw_a = raw_a.T
        if module.heads is not None:
            raw_b = halves(raw_b, module.heads)
        a, b = exact(raw_a).astype("<f8"), exact(raw_b).astype("<f8")
        first = module.a.rows().widened().astype("<f8")
        second = module.b.rows().widened().astype("<f8")
        x = random.standard_normal(first.shape[1])
        expected = module.scale * (second @ (first @ x))
        # As in llama.cpp's `get_scale`: without an α there is no scale.
        scale = alpha / b.shape[1] if alpha else 1.0
        factor = module.scale / scale
        if math.isclose(factor, 1.0, rel_tol=1e-12):
            factor = 1.0
        rounding = max(
            rounding_error(raw_a, module.a.rows().widened(), dtype), rounding_error(raw_b, second * factor, dtype)
        )
        allowed = _allowed(first, second, x, module.scale, scale, dtype)
        share = float((np.abs(scale * (b @ (a @ x)) - expected) / allowed).max(initial=0.0))
        if not share <= 1.0 or not rounding <= 1.0 + _OF_DOUBLES:
            raise differs(f"what it does to {module.module}", "adapter")
        worst = max(worst, rounding)
    return worst


def _allowed(a: Any, b: Any, x: Any, scale: float, file_scale: float, dtype: GgufDtype) -> npt.NDArray[Any]:
    """Return how far each output may be off if A, B and α are rounded once each."""
    inner, least = np.abs(a) @ np.abs(x), _LEAST[dtype]
    share = 2 * _ROUNDING[dtype] + 2 * _ROUNDING["f32"]
    small = least * (abs(scale) * np.abs(b).sum(1) * np.abs(x).sum() + abs(file_scale) * inner.sum())
    found: npt.NDArray[Any] = abs(scale) * (np.abs(b) @ inner) * share + small + np.finfo(float).tiny
    return found
