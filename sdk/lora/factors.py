"""Low-rank matrices B·A as their factors: sums of them, and the shortest factors of one. No B·A is ever formed.

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
    """The shortest factors of a matrix, or of the nearest one of a lower rank."""

    factors: Factors
    #: Σσ² of what was kept, and of all.
    kept_square: float
    square: float


def joined(terms: Iterable[tuple[float, Factors]]) -> Factors:
    """Return the factors of Σ wᵢ·BᵢAᵢ, of rank Σ rᵢ: the B beside each other, with the weights in them, the A on top of each other."""
    import numpy as np

    listed = list(terms)
    return Factors(
        np.hstack([weight * factors.b for weight, factors in listed]), np.vstack([factors.a for _, factors in listed])
    )


def reduced(factors: Factors, rank: int | None = None) -> Reduced:
    """Return factors of the same matrix whose rank is its numerical one, or of the nearest matrix of `rank`.

    B = Q_B·R_B and Aᵀ = Q_A·R_A, so that B·A = Q_B·(R_B·R_Aᵀ)·Q_Aᵀ, and the singular values of B·A are those of the small
    matrix in the middle; the nearest matrix of a rank keeps the largest (Eckart and Young, 1936). Each σ goes in equal parts
    into both factors, and the largest number of each column of B is positive, so that equal factors give
    equal bytes on one machine: how many cores there are, LAPACK shows in the last digit.
    """
    import numpy as np

    q_b, r_b = np.linalg.qr(factors.b)
    q_a, r_a = np.linalg.qr(factors.a.T)
    u, sigma, v = np.linalg.svd(r_b @ r_a.T, full_matrices=False)
    # What the terms of the sum are, of which rounding leaves a part even where they cancel.
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


def padded(factors: Factors, rank: int) -> Factors:
    """Return factors of the same matrix of a higher rank, with zeros."""
    import numpy as np

    more = rank - factors.rank
    return Factors(np.pad(factors.b, ((0, 0), (0, more))), np.pad(factors.a, ((0, more), (0, 0))))


def stacked(experts: Sequence[Factors]) -> Factors:
    """Return B (out, r·experts), rank by rank, and A (r·experts, in), expert by expert, as PEFT holds those of stacked experts."""
    import numpy as np

    width = len(experts) * experts[0].rank
    b = np.stack([one.b for one in experts], axis=-1).reshape(len(experts[0].b), width)
    return Factors(b, np.vstack([one.a for one in experts]))


def of_each_expert(factors: Factors, experts: int) -> list[Factors]:
    """Return the factors of each expert of what `stacked` returns."""
    rank = factors.rank // experts
    return [Factors(factors.b[:, one::experts], factors.a[one * rank : (one + 1) * rank]) for one in range(experts)]
