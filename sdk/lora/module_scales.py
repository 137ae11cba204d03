"""What a LoRA record says about each module that it adapts: rank, alpha, and the number of experts in its A and B.

>>> record = LoraConfig(rank=8, alpha=16.0, dropout=0.0, target_modules=["q_proj"], alpha_pattern={"q_proj": 4.0})
>>> ModuleScales(record).of("layers.0.q_proj", width=8)
ModuleScale(rank=8, said=8, alpha=4.0, experts=1, scale=0.5)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from sdk.formats.adapter_files import base_module
from sdk.formats.peft_patterns import Budget, BudgetError, ExpressionError, ModuleValues
from sdk.lora.experts import OwnedParameters
from sdk.schemas.lora_config import LoraConfig

#: The budget for an adapter's patterns; all of it takes about two seconds.
_PATTERN_STEPS = 10_000_000
#: Characters of a parameter's name that one step builds.
_NAMED = 8

V = TypeVar("V")


class ScalesError(ValueError):
    """Patterns can't be tried, or not within the budget; the message is a clause."""


@dataclass(frozen=True)
class ModuleScale:
    """How to read one module's ΔW = s·B·A."""

    #: The real rank of A and B; for stacked experts, the rank of each expert.
    rank: int
    #: The rank that the record gives.
    said: int
    alpha: float
    #: The number of experts of a stacked weight; 1 for any other.
    experts: int
    #: s: α/r, or α/√r with rsLoRA, where r is the real rank.
    scale: float


class ModuleScales:
    """The scale of each module, from a version's record. Raises ScalesError for patterns that can't be tried.

    Patterns are tried in the order of their keys, as PEFT reads them from a version's file; with `in_order`, in the
    record's own order.
    """

    def __init__(self, lora: LoraConfig, *, in_order: bool = False) -> None:
        budget = Budget(_PATTERN_STEPS)
        self._lora = lora
        self._budget = budget
        self.parameters = OwnedParameters(lora.target_parameters, lora.target_modules)
        order = dict if in_order else _sorted
        self._ranks = _values(order(lora.rank_pattern), lora.rank, budget)
        self._alphas = _values(order(lora.alpha_pattern), lora.alpha, budget)

    def of(self, module: str, *, width: int) -> ModuleScale | None:
        """Return how to read a module whose A has `width` rows: for experts, the rank of each times their number.

        Patterns name the parameters of a stacked weight, but the file does not; None if they leave open which one this
        is. Raises ScalesError.
        """
        plain = base_module(module)
        stacked = self.parameters.of(plain)
        names = stacked or [module]
        try:
            self._budget.spend(1 + sum(map(len, names)) // _NAMED)
            found = {(self._ranks.of(name), self._alphas.of(name)) for name in names}
        except BudgetError as error:
            raise ScalesError("the patterns of its configuration take too long to try") from error
        if stacked:
            found = {(rank, alpha) for rank, alpha in found if rank > 0 and width % rank == 0}
        if len(found) != 1:
            return None
        ((said, alpha),) = found
        experts = width // said if stacked else 1
        rank = width // experts
        return ModuleScale(rank, said, alpha, experts, scaling(alpha, rank, by_root=self._lora.use_rslora))


def scaling(alpha: float, rank: float, *, by_root: bool) -> float:
    """Return s: α/r, or α/√r with rsLoRA (arXiv:2312.03732)."""
    return alpha / (math.sqrt(rank) if by_root else rank)


def _sorted(patterns: dict[str, V]) -> dict[str, V]:
    return dict(sorted(patterns.items()))


def _values(patterns: Mapping[str, V], default: V, budget: Budget) -> ModuleValues[V]:
    try:
        return ModuleValues(patterns, default, budget)
    except ExpressionError as error:
        raise ScalesError(f"its configuration has a pattern that can't be tried, for {error}") from error
