"""Ranks that EVA moves between the modules of an adapter (arXiv:2410.07170, section 3.3; `EvaConfig.rho` of PEFT).

>>> from sdk.schemas.training import TrainingSpec
>>> spec = TrainingSpec(rank=2, init_lora_weights="eva", eva_rho=2)
>>> ranks_by_variance({"q": [0.9, 0.05, 0.0, 0.0], "up": [0.4, 0.3, 0.2, 0.1]}, budget=4)
{'q': 1, 'up': 3}
>>> patterns_of(spec, {"q": 1, "up": 3})
({'q': 1, 'up': 3}, {'q': 2.0, 'up': 6.0})
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from sdk.schemas.lora_config import LoraConfig
from sdk.schemas.training import TrainingSpec


def ranks_by_variance(shares: Mapping[str, Sequence[float]], budget: int) -> dict[str, int]:
    """Return the rank of each module: directions are handed out by the share of the inputs' variance that each
    explains, largest first.

    `shares` has the shares of a module's directions, the largest first, as many as it may have; `budget` is the sum of
    all ranks. Unlike in PEFT, each module keeps at least one direction, so that all requested modules are adapted.
    """
    names = list(shares)
    further = [
        (-share, number, place)
        for place, name in enumerate(names)
        for number, share in enumerate(shares[name])
        # A module's first direction has been handed out already.
        if number
    ]
    ranks = dict.fromkeys(names, 1)
    for _, _, place in sorted(further)[: budget - len(names)]:
        ranks[names[place]] += 1
    return ranks


def alpha_at(spec: TrainingSpec, rank: int) -> float:
    """Return the alpha that gives a module of another rank the requested scale."""
    ratio = rank / spec.rank
    return spec.resolved_alpha * (math.sqrt(ratio) if spec.use_rslora else ratio)


def patterns_of(spec: TrainingSpec, ranks: Mapping[str, int]) -> tuple[dict[str, int], dict[str, float]]:
    """Return the rank pattern and the alpha pattern of modules by their full names: those that differ from the spec's rank."""
    moved = {name: rank for name, rank in sorted(ranks.items()) if rank != spec.rank}
    return moved, {name: alpha_at(spec, rank) for name, rank in moved.items()}


def is_redistribution(spec: TrainingSpec, lora: LoraConfig) -> bool:
    """Whether a training of `spec` may have made the patterns of a record: within its bounds, and with its scale."""
    ranks = lora.rank_pattern
    if any(not 1 <= rank <= spec.most_rank for rank in ranks.values()):
        return False
    return patterns_of(spec, ranks) == (ranks, lora.alpha_pattern)


def most_parameters(shapes: Iterable[tuple[int, int]], spec: TrainingSpec) -> int:
    """Return the most parameters that A and B of modules (out, in) can have, however their ranks are moved."""
    sizes = sorted((out + into for out, into in shapes), reverse=True)
    left, found = len(sizes) * (spec.rank - 1), 0
    for size in sizes:
        more = min(left, spec.most_rank - 1)
        found, left = found + (1 + more) * size, left - more
    return found
