"""How many more rows the second of two models gets wrong than the first, of yes-or-no answers to the same rows, at most.

The interval of `sdk.statistics.binomial` combines two exact ones, and is none: at 30 rows and α = 0.0003 a version that is
worse by the margin gets through in 3.9 % of all samples. This one is exact: whatever share of rows differs, a true
difference of the limit or more is refuted in α of all samples at most.

>>> round(worse_p(5, 5, 100, 0.1), 4)  # 5 rows got worse and 5 better: are 10 % more worse in truth?
0.0061
>>> round(most_worse(5, 5, 100, alpha=0.05), 4)
0.0579
>>> round(most_worse(0, 0, 100, alpha=0.05), 4)  # 1 − 0.05^(1/100)
0.0295
"""

from __future__ import annotations

import functools
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Whole = npt.NDArray[np.int64]

#: For how many shares of rows that differ the probability is computed.
_SHARES = 48
#: How many probabilities are computed at once: few enough to stay in the processor's cache.
_AT_ONCE = 1 << 15
#: Halvings after which a limit is known to a ten-millionth, and how far from it the exact one may end.
_HALVINGS, _CLOSE = 24, 2e-6
#: Steps that are never needed: halving alone takes fewer.
_MOST_STEPS = 60
#: Smaller probabilities are not told apart.
_LEAST_P = 1e-300
#: With more rows the normal distribution of the statistic is used in place of its exact one.
MOST_EXACT_ROWS = 5_000
#: Statistics that differ by less are equal.
_ROUNDING = 1e-9


@functools.lru_cache(maxsize=4096)
def most_worse(worse: int, better: int, total: int, *, alpha: float) -> float:
    """Return the least difference of the shares of rows that got worse and that got better, -1..1, that is refuted at α."""
    import numpy as np

    low, high = (worse - better) / total, 1.0
    critical = NormalDist().inv_cdf(alpha)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        seen = float(_statistic(np.array([worse]), np.array([better]), total, middle)[0])
        low, high = (low, middle) if seen <= critical else (middle, high)
    if total > MOST_EXACT_ROWS or high > 1 - _CLOSE:
        return high

    def away(margin: float) -> float:
        p = worse_p(worse, better, total, margin)
        return NormalDist().inv_cdf(min(max(p, _LEAST_P), 1 - 1e-15)) - critical

    # The normal distribution's limit is close by. The curve is nearly straight, but jumps where the order of what could have
    # been seen changes.
    ends = {(worse - better) / total: 1.0, 1.0: -1.0}
    first, second = high, min((high + 1) / 2, high + 0.1 * (high - (worse - better) / total))
    values = away(first), away(second)
    for number in range(_MOST_STEPS):
        ends |= {first: values[0], second: values[1]}
        low = max(margin for margin, value in ends.items() if value > 0)
        high = min(margin for margin, value in ends.items() if value <= 0 and margin > low)
        if high - low < _CLOSE:
            break
        slope = (values[1] - values[0]) / (second - first) if second != first else 0.0
        third = second - values[1] / slope if slope else low
        # A little further than where a straight line would be 0, so that it comes closer from both sides.
        third += _CLOSE / 4 if values[1] > 0 else -_CLOSE / 4
        if not low < third < high or number % 3 == 2:
            third = (low + high) / 2
        first, second, values = second, third, (values[1], away(third))
    return high


def worse_p(worse: int, better: int, total: int, margin: float) -> float:
    """Return how often at most it looks as good as this, if the share of rows that got worse is above that of those that
    got better by `margin`, -1..1.

    The largest probability over all shares of rows that differ of a score statistic as low as this one: Tango's (Statistics
    in Medicine 1998, 17, 891), made exact as by Chan and Zhang (Biometrics 1999) and, for pairs, Sidik (Computational
    Statistics & Data Analysis 2003).
    """
    import numpy as np

    seen = float(_statistic(np.array([worse]), np.array([better]), total, margin)[0])
    if total > MOST_EXACT_ROWS:
        return NormalDist().cdf(seen)
    if abs(margin) >= 1:
        return 1.0 if margin < 0 or worse == total else 0.0
    most = _most_as_good(seen, total, margin)
    least = abs(margin)
    # Closer together where few rows differ.
    shares = least + (1 - least) * ((np.arange(_SHARES) + 0.5) / _SHARES) ** 2
    shares = np.concatenate([[least + 1e-12], shares, [1.0]])
    some = max(1, _AT_ONCE // (total + 1))
    parts = (shares[start : start + some] for start in range(0, len(shares), some))
    return min(1.0, max(float(_probability(most, total, part, margin).max()) for part in parts))


def _statistic(worse: Whole, better: Whole, total: int, margin: float) -> Floats:
    """Tango's: the difference less the margin, over its standard error where the margin is the true difference."""
    import numpy as np

    linear = -worse - better + (2 * total - worse + better) * margin
    constant = -better * margin * (1 - margin)
    share = (np.sqrt(np.maximum(linear**2 - 8 * total * constant, 0.0)) - linear) / (4 * total)
    variance = total * np.maximum(2 * share + margin * (1 - margin), 0.0)
    away = worse - better - total * margin
    found: Floats = np.where(np.abs(away) < _ROUNDING, 0.0, away / np.sqrt(np.maximum(variance, 1e-12)))
    return found


def _most_as_good(seen: float, total: int, margin: float) -> Whole:
    """(total + 1,) of how many rows that differ at most how many got worse, where it looks as good as `seen`; -1: none."""
    import numpy as np

    differing = np.arange(total + 1)
    low, high = np.full(total + 1, -1), differing.copy()
    while (low < high).any():
        middle = (low + high + 1) // 2
        good = _statistic(middle, differing - middle, total, margin) <= seen + _ROUNDING
        low, high = np.where(good, middle, low), np.where(good, high, middle - 1)
    return low


def _probability(most: Whole, total: int, shares: Floats, margin: float) -> Floats:
    """(shares,) how often of `total` rows as many got worse at most as `most` says for how many differ."""
    import numpy as np

    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, total + 1)))])
    among = np.clip((shares + margin) / (2 * shares), 0.0, 1.0)[:, None]
    log_worse, log_better = _logs(among)
    log_differs, log_equal = _logs(shares[:, None])
    differing = np.arange(total + 1)

    def of(counts: Whole, of_all: Whole, log_yes: Floats, log_no: Floats) -> Floats:
        """(shares, counts) binomial probabilities."""
        inside = (counts >= 0) & (counts <= of_all)
        counts = np.clip(counts, 0, of_all)
        rest = of_all - counts
        ways = logs[of_all] - logs[counts] - logs[rest]
        return np.where(inside, np.exp(ways + counts * log_yes + rest * log_no), 0.0)

    # P(at most `most` of k got worse), from one k to the next: with one row more, `most` stays or grows by one.
    before, after, fewer = most[:-1], most[1:], differing[:-1]
    grows = after > before
    change = np.where(
        grows,
        (1 - among) * of(before + 1, fewer, log_worse, log_better),
        -among * of(before, fewer, log_worse, log_better),
    )
    start = np.full((len(shares), 1), 1.0 if most[0] >= 0 else 0.0)
    tails = np.clip(np.cumsum(np.concatenate([start, change], axis=1), axis=1), 0.0, 1.0)
    found: Floats = (of(differing, np.full(total + 1, total), log_differs, log_equal) * tails).sum(axis=1)
    return found


def _logs(shares: Floats) -> tuple[Floats, Floats]:
    """The logs of shares and of what is left, of which none is infinite: no row has a log of 0."""
    import numpy as np

    least = np.finfo(np.float64).tiny
    return np.log(np.maximum(shares, least)), np.log(np.maximum(1 - shares, least))
