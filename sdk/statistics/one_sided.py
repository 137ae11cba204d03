"""The upper end of a one-sided interval of a ratio of sums, Σu/Σm, over skewed and unequally heavy clusters of rows.

A bootstrap needs 5/α draws, and after ten versions on the same rows α is 3·10⁻⁴. This takes one pass at any α, and gives the
same answer always. At 30 rows and α = 5 % it lets as few through as the larger of a studentised bootstrap's end and Student's,
for equally heavy rows and for lognormal tokens; where harm is skewed, one in a hundred more (benchmarks/RESULTS.md, "Gates").

>>> import numpy as np
>>> rows = np.array([0.1, -0.2, 0.4, 0.0, 0.3, 0.1, -0.1, 0.2] * 4)
>>> end = 0.1 + t_quantile(0.05, 31) * float(np.std(rows, ddof=1)) / 32**0.5
>>> round(float(most_of_ratio(rows, np.ones(32), alpha=0.05)) / end, 3)  # Student's, since this is hardly skewed
1.0
>>> cubes = rows**3
>>> end = float(cubes.mean()) + t_quantile(0.05, 31) * float(np.std(cubes, ddof=1)) / 32**0.5
>>> round(float(most_of_ratio(cubes, np.ones(32), alpha=0.05)) / end, 3)
1.096
>>> round(t_quantile(0.05, 10), 4)
1.8125
"""

from __future__ import annotations

from math import exp, log, pi, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]


#: Fewer degrees of freedom than any rows have that are judged, unless a few of them weigh more than all others.
LEAST_FREEDOM = 1.0


def most_of_ratio(sums: Floats, masses: Floats, *, alpha: float) -> Floats:
    """Return the upper end (…) of an interval of Σu/Σm, from below, for clusters' `sums` and `masses`, (…, clusters).

    R + q·se, with the jackknife's standard error, in which a heavy cluster counts for what leaving it out would change
    (Efron and Stein 1981: it is too large rather than too small). q is the larger of two quantiles of (R − R̂)/se: Student's,
    with as many degrees of freedom as equally heavy clusters would have that say as much, and that from Hall's cubic transformation, which takes out the skewness of a studentised error (Journal of the Royal
    Statistical Society B 1992, 54, 221), here of a ratio: with residuals e = u − R·m, γ = E[e³]/E[e²]^1.5 and
    ρ = E[em]/(E[m]·E[e²]^½), the error's mean is (ρ − γ/2)/√n and its third cumulant (6ρ − 2γ)/√n; for equal masses ρ is 0.
    """
    import numpy as np

    count, total = sums.shape[-1], masses.sum(axis=-1, keepdims=True)
    ratio = sums.sum(axis=-1, keepdims=True) / total
    away = sums - ratio * masses
    with np.errstate(divide="ignore", invalid="ignore"):
        without = away / (1 - masses / total)
        without -= without.mean(axis=-1, keepdims=True)
        error = np.sqrt((count - 1) / count * (without**2).sum(axis=-1)) / total[..., 0]
        size = np.sqrt((away**2).mean(axis=-1))
        skew = ((away / size[..., None]) ** 3).mean(axis=-1)
        pull = (away / size[..., None] * masses).mean(axis=-1) * count / total[..., 0]
    # So many equally heavy clusters would say as much (Kish 1965).
    equal = total[..., 0] ** 2 / (masses**2).sum(axis=-1)
    student = np.vectorize(t_quantile)(alpha, np.maximum(equal - 1, LEAST_FREEDOM))
    mean, third = (pull - skew / 2) / sqrt(count), (6 * pull - 2 * skew) / sqrt(count)
    # Where T + aT² + a²T³/3 + b is −t.
    bend, shift = -third / 6, third / 6 - mean
    with np.errstate(divide="ignore", invalid="ignore"):
        bent = (1 - np.cbrt(1 - 3 * bend * (student + shift))) / bend
    most = np.where(np.abs(bend) > 1e-9, bent, student + shift)
    found: Floats = ratio[..., 0] + np.where(size > 0, np.maximum(student, most) * error, 0.0)
    return found


def t_quantile(alpha: float, freedom: float) -> float:
    """Return what Student's t is above in `alpha` of all cases, by Hill's algorithm 396 (Communications of the ACM 1970)."""
    if not 0 < alpha < 0.5:
        raise ValueError(f"a share of one tail lies between 0 and 0.5, and {alpha!r} does not")
    a = 1 / (freedom - 0.5)
    b = 48 / a**2
    c = ((20700 * a / b - 98) * a - 16) * a + 96.36
    d = ((94.5 / (b + c) - 3) / b + 1) * sqrt(a * pi / 2) * freedom
    y = exp(2 / freedom * log(d * 2 * alpha))
    if y > a + 0.05:
        x = -NormalDist().inv_cdf(alpha)
        y = x**2
        if freedom < 5:
            c += 0.3 * (freedom - 4.5) * (x + 0.6)
        c += (((0.05 * d * x - 5) * x - 7) * x - 2) * x + b
        y = (((((0.4 * y + 6.3) * y + 36) * y + 94.5) / c - y - 3) / b + 1) * x
        y = a * y**2
        y = exp(y) - 1 if y > 0.002 else 0.5 * y**2 + y
    else:
        y = (
            (1 / (((freedom + 6) / (freedom * y) - 0.089 * d - 0.822) * (freedom + 2) * 3) + 0.5 / (freedom + 4)) * y
            - 1
        ) * (freedom + 1) / (freedom + 2) + 1 / y
    return sqrt(freedom * y)
