"""LoRA of stacked experts: which parameters a module's A and B belong to, and ‖s·BA‖ expert by expert.

A parameter of (experts, …, …) has one A of (experts·r, in), whose rows go expert by expert, and one B of (out, r·experts),
whose columns go rank by rank, as PEFT's `ParamWrapper` reads them: ΔW of the expert e is s·B[:, r·E + e]·A[e·R + r, :].

>>> OwnedParameters(["experts.up", "mlp.experts.down", "gate", "other.up"]).of("mlp.experts")
['mlp.experts.down', 'mlp.experts.gate', 'mlp.experts.up']
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sdk.formats.peft_patterns import suffixes
from sdk.lora.targets import TargetsError, matches, not_excluded
from sdk.schemas.option_types import TARGET_PRESETS, is_pattern

if TYPE_CHECKING:
    import numpy.typing as npt

#: Of one module: each has a product of its own.
MAX_EXPERTS = 4096


class OwnedParameters:
    """The parameters that the A and B of a module may be of, by an adapter's record."""

    def __init__(self, target_parameters: Iterable[str], target_modules: Iterable[str] = ()) -> None:
        self._targets = frozenset(target_modules)
        #: By the module that they are of, "" where they don't say one.
        self._of: dict[str, list[str]] = {}
        for name in target_parameters:
            owner, _, parameter = name.rpartition(".")
            self._of.setdefault(owner, []).append(parameter)

    def of(self, module: str) -> list[str]:
        """Return their full names, sorted; none where A and B are the module's own. A name alone is any module's."""
        if not self._of:
            return []
        ends = list(suffixes(module))
        if any(end in self._targets for end in ends):
            return []
        return sorted({f"{module}.{name}" for owner in ("", *ends) for name in self._of.get(owner, ())})


def experts_share(tensors: Mapping[str, Sequence[int]]) -> float:
    """Return the share of a base's numbers that experts hold, by its files: transformers stacks them, and nothing packs the stack.

    Those that each token comes to are linear modules, and are packed.

    >>> experts_share({"mlp.experts.0.w1.weight": [3, 4], "mlp.shared_experts.w1.weight": [2, 2], "q_proj.weight": [4, 8]})
    0.25
    """
    total = sum(math.prod(shape) for shape in tensors.values())
    routed = (math.prod(shape) for name, shape in tensors.items() if ".experts." in f".{name}")
    return sum(routed) / total if total else 0.0


def stacked_targets(
    targets: str, linear_names: Sequence[str], stacked_names: Sequence[str], *, exclude: str | None = None
) -> list[str]:
    """Return those of the names in `targets` that mean stacked parameters, sorted; a name that means a module means that.

    `linear_names` are the full names of a model's linear modules, `stacked_names` of its parameters of (experts, …, …).
    Raises TargetsError where something is excluded beside them: only modules can be.

    >>> linear, stacked = ["layers.0.mlp.down_proj"], ["layers.1.mlp.experts.down_proj"]
    >>> stacked_targets("experts.down_proj,down_proj", linear, stacked)
    ['experts.down_proj']
    """
    if targets in TARGET_PRESETS or is_pattern(targets):
        return []
    found = sorted(
        name
        for name in set(targets.split(","))
        if any(matches(full, name) for full in stacked_names) and not any(matches(full, name) for full in linear_names)
    )
    if found and exclude is not None:
        raise TargetsError(f"{not_excluded(found)}.")
    return found


def sum_of_products(gram_out: npt.NDArray[Any], gram_into: npt.NDArray[Any], experts: int) -> float:
    """Return Σ ⟨B₁ₑA₁ₑ, B₂ₑA₂ₑ⟩ over the experts e, of B₁ᵀB₂ and A₁A₂ᵀ, both (r₁·experts, r₂·experts)."""
    import numpy as np

    if experts == 1:
        return float((gram_out * gram_into).sum())
    ranks = [side // experts for side in gram_out.shape]
    out = gram_out.reshape(ranks[0], experts, ranks[1], experts)
    into = gram_into.reshape(experts, ranks[0], experts, ranks[1])
    return float(np.einsum("aebe,eaeb->", out, into))
