"""The paired sign-flip test: if both models were alike, each cluster's difference could as well have the other sign.

>>> import numpy as np
>>> sign_flip_p(np.array([1.0, 2.0, 3.0, 0.0]), np.random.default_rng(0))  # of 8 ways to choose signs 2 are as extreme
0.25
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

#: Up to this many clusters that differ, every choice of signs is tried; for more, `DRAWS` are drawn.
EXACT_CLUSTERS = 16
DRAWS = 9999
#: How many clusters' signs are drawn as one number. A table of all their sums fits into the processor's nearest cache.
_BITS = 12
#: Sums that differ by less than this share of the largest count as equal: they were added up in different orders.
_ROUNDING = 1e-12


def sign_flip_p(sums: Floats, rng: np.random.Generator, *, draws: int = DRAWS) -> float:
    """Return the two-sided p of Σu over clusters, (clusters,), against all choices of their signs."""
    import numpy as np

    differing = sums[sums != 0.0]
    least = abs(float(differing.sum())) - _ROUNDING * float(np.abs(differing).sum())
    if len(differing) <= EXACT_CLUSTERS:
        return float(np.mean(np.abs(_every_choice(differing)) >= least))
    extreme = int(np.count_nonzero(np.abs(_some_choices(differing, rng, draws)) >= least))
    # The observed choice of signs is counted too, so that p is never 0 and never too small.
    return (extreme + 1) / (draws + 1)


def _every_choice(values: Floats) -> Floats:
    """Σ ±v for every choice of signs, (2^values,)."""
    import numpy as np

    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def _some_choices(values: Floats, rng: np.random.Generator, draws: int) -> Floats:
    """Σ ±v for choices of signs that are drawn, (draws,). Twelve values share a table of their 4,096 sums."""
    import numpy as np

    sums = np.zeros(draws)
    for start in range(0, len(values), _BITS):
        table = _every_choice(values[start : start + _BITS])
        raw = rng.bit_generator.random_raw((draws + 3) // 4).view(np.uint16)[:draws]
        sums += np.take(table, raw & (len(table) - 1))
    return sums
