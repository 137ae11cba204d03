"""What rows can show and how many are needed (power analysis in Miller, arXiv 2411.00640); what several tests say.

>>> round(least_difference(0.01), 4)  # (1.96 + 0.84) · 0.01
0.028
>>> rows_needed(48, 0.01, 0.014)  # half the difference takes four times the rows
193
>>> holm([0.01, 0.04, 0.03])
[0.03, 0.06, 0.06]
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, sqrt
from statistics import NormalDist

#: How often a true difference of the given size is to be shown.
POWER = 0.8
#: More rows than any dataset has: if more than these are needed, the difference counts as zero.
MOST_ROWS = 10**12


def least_difference(standard_error: float, *, alpha: float = 0.05, power: float = POWER) -> float:
    """Return the smallest difference that these rows show in `power` of all cases: (z(1−α/2) + z(power)) · se.

    This is Miller's minimum detectable effect, with the standard error that was found: that of the paired differences,
    clustered.
    """
    normal = NormalDist()
    return (normal.inv_cdf(1 - alpha / 2) + normal.inv_cdf(power)) * standard_error


def rows_needed(
    rows: int, standard_error: float, difference: float, *, alpha: float = 0.05, power: float = POWER
) -> int | None:
    """Return how many rows like these show a `difference` in `power` of all cases: n · (δ_least / δ)².

    This is Miller's sample size; None for more than `MOST_ROWS`.
    """
    least = least_difference(standard_error, alpha=alpha, power=power)
    # With a tiny difference the square would overflow.
    if least > difference * sqrt(MOST_ROWS / rows):
        return None
    return ceil(rows * (least / difference) ** 2)


def holm(values: Sequence[float]) -> list[float]:
    """Return each p adjusted for several tests (Holm 1979): of those that are now below α, the probability that any is
    wrong is at most α.
    """
    adjusted = [0.0] * len(values)
    highest = 0.0
    for place, index in enumerate(sorted(range(len(values)), key=lambda index: values[index])):
        highest = max(highest, min(1.0, (len(values) - place) * values[index]))
        adjusted[index] = highest
    return adjusted
