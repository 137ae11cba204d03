"""LoRA on stacked experts: which parameters a module's A and B belong to, and ‖s·BA‖ expert by expert.

A parameter of (experts, …, …) has one A of (experts·r, in), with its rows ordered expert by expert, and one B of (out,
r·experts), with its columns ordered rank by rank, as PEFT's `ParamWrapper` reads them: the ΔW of expert e is s·B[:, r·E
+ e]·A[e·R + r, :].

>>> OwnedParameters(["experts.up", "mlp.experts.down", "gate", "other.up"]).of("mlp.experts")
['mlp.experts.down', 'mlp.experts.gate', 'mlp.experts.up']
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sdk.formats.peft_patterns import suffixes
from sdk.lora.name_ends import NameEnds
from sdk.lora.targets import TargetsError, not_excluded
from sdk.schemas.option_types import TARGET_PRESETS, is_pattern

if TYPE_CHECKING:
    import numpy.typing as npt

#: Per module: each expert has a product of its own.
MAX_EXPERTS = 4096


class OwnedParameters:
    """The parameters that a module's A and B may belong to, by an adapter's record."""

    def __init__(self, target_parameters: Iterable[str], target_modules: Iterable[str] = ()) -> None:
        self._targets = frozenset(target_modules)
        #: By the module that they are in, "" if they don't name one.
        self._of: dict[str, list[str]] = {}
        for name in target_parameters:
            owner, _, parameter = name.rpartition(".")
            self._of.setdefault(owner, []).append(parameter)

    def of(self, module: str) -> list[str]:
        """Return their full names, sorted; none if A and B are the module's own. A name without a module counts for
        every module.
        """
        if not self._of:
            return []
        ends = list(suffixes(module))
        if any(end in self._targets for end in ends):
            return []
        return sorted({f"{module}.{name}" for owner in ("", *ends) for name in self._of.get(owner, ())})


def experts_share(tensors: Mapping[str, Sequence[int]]) -> float:
    """Return the share of a base's numbers that are in experts, by its files: transformers stacks them, and nothing
    packs the stack.

    Experts that every token passes through are linear modules, and are packed.

    >>> experts_share({"mlp.experts.0.w1.weight": [3, 4], "mlp.shared_experts.w1.weight": [2, 2], "q_proj.weight": [4, 8]})
    0.25
    """
    total = sum(math.prod(shape) for shape in tensors.values())
    routed = (math.prod(shape) for name, shape in tensors.items() if ".experts." in f".{name}")
    return sum(routed) / total if total else 0.0


def stacked_targets(
    targets: str, linear_names: Sequence[str], stacked_names: Sequence[str], *, exclude: str | None = None
) -> list[str]:
    """Return the names in `targets` that mean stacked parameters, sorted; a name that also means a module counts as the module.

    `linear_names` are the full names of a model's linear modules, `stacked_names` of its parameters of (experts, …, …).
    Raises TargetsError if something is excluded as well: only modules can be excluded.

    >>> linear, stacked = ["layers.0.mlp.down_proj"], ["layers.1.mlp.experts.down_proj"]
    >>> stacked_targets("experts.down_proj,down_proj", linear, stacked)
    ['experts.down_proj']
    """
    if targets in TARGET_PRESETS or is_pattern(targets):
        return []
    stacked, linear = NameEnds(stacked_names), NameEnds(linear_names)
    found = sorted(name for name in set(targets.split(",")) if stacked.has(name) and not linear.has(name))
    if found and exclude is not None:
        raise TargetsError(f"{not_excluded(found)}.")
    return found


def sum_of_products(gram_out: npt.NDArray[Any], gram_into: npt.NDArray[Any], experts: int) -> float:
    """Return Σ ⟨B₁ₑA₁ₑ, B₂ₑA₂ₑ⟩ over the experts e, from B₁ᵀB₂ and A₁A₂ᵀ, both (r₁·experts, r₂·experts)."""
    import numpy as np

    if experts == 1:
        return float((gram_out * gram_into).sum())
    ranks = [side // experts for side in gram_out.shape]
    out = gram_out.reshape(ranks[0], experts, ranks[1], experts)
    into = gram_into.reshape(experts, ranks[0], experts, ranks[1])
    return float(np.einsum("aebe,eaeb->", out, into))
