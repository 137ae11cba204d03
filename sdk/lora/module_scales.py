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
    """The scale of each module, from a version's record. Raises ScalesError for patterns that can't be tried."""

    def __init__(self, lora: LoraConfig) -> None:
        budget = Budget(_PATTERN_STEPS)
        self._lora = lora
        self._budget = budget
        self._parameters = OwnedParameters(lora.target_parameters, lora.target_modules)
        self._ranks = _values(lora.rank_pattern, lora.rank, budget)
        self._alphas = _values(lora.alpha_pattern, lora.alpha, budget)

    def of(self, module: str, *, width: int) -> ModuleScale | None:
        """Return how to read a module whose A has `width` rows: for experts, the rank of each times their number.

        Patterns name the parameters of a stacked weight, but the file does not; None if they leave open which one this
        is. Raises ScalesError.
        """
        plain = base_module(module)
        stacked = self._parameters.of(plain)
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
        scale = alpha / (math.sqrt(rank) if self._lora.use_rslora else rank)
        return ModuleScale(rank, said, alpha, experts, scale)


def _values(patterns: Mapping[str, V], default: V, budget: Budget) -> ModuleValues[V]:
    """Return the patterns' values, tried in the order in which PEFT reads them: the file is written with sorted keys."""
    try:
        return ModuleValues(dict(sorted(patterns.items())), default, budget)
    except ExpressionError as error:
        raise ScalesError(f"its configuration has a pattern that can't be tried, for {error}") from error
