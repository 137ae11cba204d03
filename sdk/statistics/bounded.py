"""The interval of a mean of bounded numbers, whatever their distribution and however few of them are not zero.

A bootstrap draws from the rows that were seen, so it can't know of a kind that is rare: where 5 of 100 rows differ, by as
much in either direction, its interval of 95 % holds the true difference in 85 % of all samples. This one holds it in
95 % at least, and is wide.

>>> import numpy as np
>>> [round(end, 4) for end in bounded_mean_interval(np.array([0.2, 0.5, 0.9]), 100)]
[-0.0367, 0.0753]
>>> [round(end, 4) for end in bounded_mean_interval(np.array([]), 100)]
[-0.0486, 0.0486]
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

#: How many stakes are averaged.
_STAKES = 64
#: Halvings after which an end is known to 10⁻¹⁵.
_HALVINGS = 51


def bounded_mean_interval(values: Floats, total: int, *, level: float = 0.95) -> tuple[float, float]:
    """Return an interval of the mean of `total` independent numbers in [-1, 1]: `values` (differing,), and zeros.

    It covers at least `level`. Whoever stakes a share s of his capital on each number to be above m, at odds that would
    be fair for a mean of m, multiplies it by 1 − s + s·(1 + x)/(1 + m). If the mean is m or less, all stakes together
    make 1/α of it in at most α of all samples (Ville), so that a smaller m than the one with 1/α is refuted at α, here
    half of 1 − `level`; the other end is the mirror image. The shares are averaged with the weights Beta(½, ½), which
    loses little against the best of them (Orabona and Jun, arXiv 2110.14099; Waudby-Smith and Ramdas, arXiv
    2010.09686).
    """
    import numpy as np

    values = np.clip(values, -1.0, 1.0)
    most = log(2 / (1 - level))
    return _low(values, total, most), -_low(-values, total, most)


def _low(values: Floats, total: int, most: float) -> float:
    """The mean below which the log of the capital is more than `most`."""
    import numpy as np

    # The middles of equal parts of Beta(½, ½), whose quantiles are sin²(πq/2).
    stakes = np.sin(np.pi * (np.arange(_STAKES) + 0.5) / (2 * _STAKES)) ** 2
    numbers, times = np.append(values, 0.0), np.append(np.ones(len(values)), total - len(values))

    def capital(mean: float) -> float:
        won = np.log1p(np.outer(stakes, (1 + numbers) / (1 + mean) - 1)) @ times
        return float(won.max() + np.log(np.mean(np.exp(won - won.max()))))

    low, high = -1.0, float(values.sum() / total)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if capital(middle) > most else (low, middle)
    return low
