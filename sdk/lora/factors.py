"""Low-rank matrices B·A as their factors: their sums, and the smallest factors of one. No B·A is ever formed.

>>> import numpy as np
>>> one, other = Factors(np.ones((3, 1)), np.ones((1, 2))), Factors(np.ones((3, 1)), np.ones((1, 2)))
>>> joined([(0.5, one), (2.0, other)]).rank, reduced(joined([(0.5, one), (2.0, other)])).factors.rank
(2, 1)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt


class FactorsError(ValueError):
    """Factors, or a product of them, are out of float64's range; the message is a clause."""


@dataclass(frozen=True)
class Factors:
    """B (out, r) and A (r, in), in float64."""

    b: npt.NDArray[Any]
    a: npt.NDArray[Any]

    @property
    def rank(self) -> int:
        """r."""
        return int(self.a.shape[0])


@dataclass(frozen=True)
class Reduced:
    """The smallest factors of a matrix, or of the nearest one of a lower rank."""

    factors: Factors
    #: Σσ² of what was kept, and of all.
    kept_square: float
    square: float


def joined(terms: Iterable[tuple[float, Factors]]) -> Factors:
    """Return the factors of Σ wᵢ·BᵢAᵢ, of rank Σ rᵢ: the Bs side by side, with the weights in them, the As stacked.

    Raises FactorsError if they are out of float64's range.
    """
    import numpy as np

    listed = list(terms)
    with np.errstate(over="ignore"):
        b = np.hstack([weight * factors.b for weight, factors in listed])
    a = np.vstack([factors.a for _, factors in listed])
    if not (np.isfinite(b).all() and np.isfinite(a).all()):
        raise FactorsError("its factors times their weights and scales are beyond float64")
    return Factors(b, a)


def reduced(factors: Factors, rank: int | None = None) -> Reduced:
    """Return factors of the same matrix with its numerical rank, or of the nearest matrix of rank `rank`.

    B = Q_B·R_B and Aᵀ = Q_A·R_A, so that B·A = Q_B·(R_B·R_Aᵀ)·Q_Aᵀ, and the singular values of B·A are those of the small
    matrix in the middle; the nearest matrix of a rank keeps the largest (Eckart and Young, 1936). Each σ goes in equal parts
    into both factors, and the largest number of each column of B is positive, so that equal factors give equal bytes on
    one machine: the number of cores changes the last digit of LAPACK's results. Raises FactorsError if B·A is out of
    float64's range.
    """
    import numpy as np

    factors = _balanced(factors)
    q_b, r_b = np.linalg.qr(factors.b)
    q_a, r_a = np.linalg.qr(factors.a.T)
    with np.errstate(over="ignore", invalid="ignore"):
        middle = r_b @ r_a.T
        square = float((middle * middle).sum())
    # LAPACK may never return if there is an infinity.
    if not np.isfinite(square):
        raise FactorsError("its ΔW, or the square of it, is beyond float64")
    u, sigma, v = np.linalg.svd(middle, full_matrices=False)
    # The size of the sum's terms: rounding leaves a fraction of it even if they cancel.
    terms = float((np.linalg.norm(factors.b, axis=0) * np.linalg.norm(factors.a, axis=1)).sum())
    noise = terms * max(len(factors.b), factors.a.shape[1]) * np.finfo(np.float64).eps
    keep = max(1, min(int((sigma > noise).sum()), len(sigma) if rank is None else rank))
    sigma = np.where(sigma > noise, sigma, 0.0)
    b, a = q_b @ u[:, :keep], v[:keep] @ q_a.T
    signs = np.sign(b[np.abs(b).argmax(axis=0), np.arange(keep)])
    roots = np.sqrt(sigma[:keep])
    squares = sigma * sigma
    return Reduced(
        Factors(b * (signs * roots), a * (signs * roots)[:, None]), float(squares[:keep].sum()), float(squares.sum())
    )


def _balanced(factors: Factors) -> Factors:
    """Return the same product with each column of B and its row of A about equally large, since their squares are taken.

    Both are multiplied by powers of two, so no digit is lost.
    """
    import numpy as np

    b, a = np.frexp(np.abs(factors.b).max(axis=0))[1], np.frexp(np.abs(factors.a).max(axis=1))[1]
    half = (a - b) // 2
    return Factors(np.ldexp(factors.b, half), np.ldexp(factors.a, -half[:, None]))


def padded(factors: Factors, rank: int) -> Factors:
    """Return factors of the same matrix of a higher rank, with zeros."""
    import numpy as np

    more = rank - factors.rank
    return Factors(np.pad(factors.b, ((0, 0), (0, more))), np.pad(factors.a, ((0, more), (0, 0))))


def stacked(experts: Sequence[Factors]) -> Factors:
    """Return B (out, r·experts), rank by rank, and A (r·experts, in), expert by expert, as PEFT stores those of stacked
    experts.
    """
    import numpy as np

    width = len(experts) * experts[0].rank
    b = np.stack([one.b for one in experts], axis=-1).reshape(len(experts[0].b), width)
    return Factors(b, np.vstack([one.a for one in experts]))


def of_each_expert(factors: Factors, experts: int) -> list[Factors]:
    """Return the factors of each expert from what `stacked` returns."""
    rank = factors.rank // experts
    return [Factors(factors.b[:, one::experts], factors.a[one * rank : (one + 1) * rank]) for one in range(experts)]
