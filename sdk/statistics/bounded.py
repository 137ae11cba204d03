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
#: So many numbers at most are told apart.
_MOST_NUMBERS = 1 << 10
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

    numbers = np.append(np.clip(values, -1.0, 1.0), 0.0)
    times = np.append(np.ones(len(values)), total - len(values))
    most = log(2 / (1 - level))
    return _low(numbers, times, most), -_low(-numbers, times, most)


def most_of_share(values: Floats, *, alpha: float) -> float:
    """Return the upper end of a one-sided interval of the mean of independent `values` (any,) in [0, 1], which is below the
    true mean in `alpha` of all samples at most, however they are distributed.

    >>> import numpy as np
    >>> round(most_of_share(np.zeros(100), alpha=0.05), 4)  # exactly, for shares of yes and no, it is 0.0295
    0.0411
    """
    import numpy as np

    # Rounded up, so that the end is none too low, and the work is the same however many there are.
    numbers, times = np.unique(np.clip(values, 0.0, 1.0), return_counts=True)
    if len(numbers) > _MOST_NUMBERS:
        places, owners = np.unique(np.ceil(numbers * _MOST_NUMBERS), return_inverse=True)
        numbers, times = places / _MOST_NUMBERS, np.bincount(owners, weights=times)
    return (1 - _low(1 - 2 * numbers, times, log(1 / alpha))) / 2


def _low(numbers: Floats, times: npt.NDArray[np.floating | np.integer], most: float) -> float:
    """The mean below which the log of the capital is more than `most`, of numbers that are there so many times."""
    import numpy as np

    # The middles of equal parts of Beta(½, ½), whose quantiles are sin²(πq/2).
    stakes = np.sin(np.pi * (np.arange(_STAKES) + 0.5) / (2 * _STAKES)) ** 2

    def capital(mean: float) -> float:
        won = np.log1p(np.outer(stakes, (1 + numbers) / (1 + mean) - 1)) @ times
        return float(won.max() + np.log(np.mean(np.exp(won - won.max()))))

    low, high = -1.0, float(numbers @ times / times.sum())
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if capital(middle) > most else (low, middle)
    return low
