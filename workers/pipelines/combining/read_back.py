"""Reading back the result and comparing it with the parents: B·(A·x) with Σ wᵢ·sᵢ·Bᵢ·(Aᵢ·x) for random x, in float64.

It shares nothing with the writer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from sdk.formats.adapter_files import PREFIX
from sdk.schemas.failures import FailureReason
from workers.pipelines.combining.order import ParentFolder
from workers.pipelines.combining.peft_adapter import TOLERANCE, PeftAdapter, singular_values
from workers.pipelines.errors import PipelineError

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
    parents = [(parent.weight, PeftAdapter(Path(parent.folder))) for parent in given]
    expected = {module for _, parent in parents for module in parent.modules}
    if wrong := sorted(expected ^ set(written.modules)):
        raise _wrong(wrong[0], "is there in only one of the two")
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
            raise _wrong(name, "is there in only one of the two")
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
