"""Reading back a written plain LoRA: ‖ΔW − ΔW_r‖, module by module, must match the energy that was not kept.

It shares nothing with the writer: both folders are read by safetensors' own reader, with ranks and scales by PEFT's
rules, and the difference is computed from the factors of both. For a DoRA it is computed from products of W with the
factors: its ΔW is never formed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sdk.errors import VerificationFailed
from sdk.formats.adapter_files import PREFIX
from workers.pipelines.combining.read_back import TOLERANCE, PeftAdapter, singular_values

if TYPE_CHECKING:
    from workers.pipelines.exporting.dora import Magnitude, MagnitudeDeltas

#: How far shares of the energy may differ if they are differences of large numbers: a DoRA's ‖ΔW‖² is a difference of
#: terms like ‖W‖².
_ENERGY = 1e-6


def read_back(folder: Path, out: Path, kept: Mapping[str, float], deltas: MagnitudeDeltas | None) -> float:
    """Return how far ‖ΔW − ΔW_r‖ is from the reported value, as a share of ‖ΔW‖, in the module where this is largest.

    Raises VerificationFailed, naming the module.
    """
    source, written = PeftAdapter(folder), PeftAdapter(out)
    if set(source.modules) != set(written.modules) or {name.removeprefix(PREFIX) for name in written.modules} != set(
        kept
    ):
        raise _differs("the list of its modules")
    tolerance, worst = TOLERANCE[written.dtype], 0.0
    for name in sorted(written.modules):
        module = name.removeprefix(PREFIX)
        if deltas is None:
            left, square, most = _of_factors(source, written, name)
        else:
            left, square, most = _of_magnitude(deltas.parts(module), written, name)
        if not square:
            if left:
                raise _differs(f"{module}, whose ΔW is zero,")
            continue
        found, told = max(left / square, 0.0), max(1.0 - kept[module], 0.0)
        # Rounding the factors moves ΔW_r by some roundings of its norm.
        error = abs(found**0.5 - told**0.5)
        near = error <= tolerance or (deltas is not None and abs(found - told) <= _ENERGY)
        if not near or not 1.0 - found >= most - _ENERGY - 2 * tolerance:
            raise _differs(
                f"{module}: it leaves {found:.3e} of the energy of ΔW, {told:.3e} was reported, and the rank can keep {most:.6f}, so it"
            )
        worst = max(worst, error)
    return worst


def _of_factors(source: PeftAdapter, written: PeftAdapter, name: str) -> tuple[float, float, float]:
    """Return ‖ΔW − ΔW_r‖², ‖ΔW‖², and the largest share of this that the rank can keep; for stacked experts, the sums."""
    experts = source.experts(name)
    if written.experts(name) != experts:
        raise _differs(f"the number of experts of {name}")
    b, a, scale = source.factors(name, experts)
    b_kept, a_kept, scale_kept = written.factors(name, experts)
    both = torch.cat([scale * b, -scale_kept * b_kept], dim=2), torch.cat([a, a_kept], dim=1)
    squares = singular_values(scale * b, a) ** 2
    square = float(squares.sum())
    most = float(squares[:, : a_kept.shape[1]].sum()) / square if square else 1.0
    return float((singular_values(*both) ** 2).sum()), square, most


def _of_magnitude(parts: Magnitude, written: PeftAdapter, name: str) -> tuple[float, float, float]:
    """Return the same for a DoRA: ΔW = (d − 1)∘W + d∘BA with d = m/‖W + BA‖, row by row."""
    weight, b, a, magnitude = parts
    rows = weight.square().sum(1)
    both = ((weight @ a.T) * b).sum(1)
    low = ((b @ (a @ a.T)) * b).sum(1)
    d = magnitude / (rows + 2 * both + low).sqrt()
    square = float(((d - 1) ** 2 * rows + 2 * (d - 1) * d * both + d**2 * low).sum())
    (b_kept,), (a_kept,), scale = written.factors(name, 1)
    b_kept = scale * b_kept
    through = (d - 1).unsqueeze(1) * (weight @ a_kept.T) + d.unsqueeze(1) * (b @ (a @ a_kept.T))
    kept = float(((b_kept @ (a_kept @ a_kept.T)) * b_kept).sum())
    # The largest share that a rank can keep would need the whole ΔW.
    return square - 2 * float((through * b_kept).sum()) + kept, square, 0.0


def _differs(what: str) -> VerificationFailed:
    return VerificationFailed(
        f"the adapter was read back, and {what} is not what was computed, so nothing was kept; try again"
    )
