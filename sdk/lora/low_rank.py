"""‖B·A‖, the Frobenius norm, from the factors alone: B·A of (out, in) is never formed.

The trace is cyclic (Petersen and Pedersen, The Matrix Cookbook, eq. 16): ‖BA‖² = tr(AᵀBᵀBA) = Σ (BᵀB)∘(AAᵀ), a sum over
(r, r) numbers. It computes the square of the norm: if products of single columns cancel, as in a converted PiSSA
adapter, digits are lost, and the norm is computed from the triangles of two QR decompositions instead, R_B·R_Aᵀ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sdk.lora.tensors import Columns

if TYPE_CHECKING:
    import numpy.typing as npt

#: Σ (BᵀB)∘(AAᵀ) is right to about 1e-9 if it is no smaller than this share of (Σ ‖bᵢ‖‖aᵢ‖)².
_SAFE_SHARE = 1e-6
#: A norm from the triangles below this share of (Σ ‖bᵢ‖‖aᵢ‖) is rounding: the products cancel.
_ROUNDING = 1e-13
#: Outside these bounds, squares of float64 numbers, or products of two such squares, may leave float64's range.
_LEAST, _MOST = 1e-150, 1e150
#: Products of columns with each other are taken for this many columns at a time: 0.5 MiB of float64.
_TILE = 256
#: How many times longer QR takes than the products.
QR_COST = 16


def split(columns: Columns, experts: int, *, by_rank: bool) -> Iterator[Columns]:
    """Yield the columns of each expert: B (out, r·experts) is ordered rank by rank, Aᵀ (in, experts·r) expert by expert."""
    if experts == 1:
        yield columns
        return
    rank = columns.raw.shape[1] // experts
    for expert in range(experts):
        own = slice(expert, None, experts) if by_rank else slice(expert * rank, (expert + 1) * rank)
        yield columns.columns(own)


def of_experts(out: Columns, into: Columns, experts: int) -> Iterator[tuple[Columns, Columns]]:
    """Yield B (out, r) and Aᵀ (in, r) of each expert."""
    return zip(split(out, experts, by_rank=True), split(into, experts, by_rank=False), strict=True)


def combined(norms: list[float]) -> float:
    """Return the norm of several matrices side by side."""
    return norms[0] if len(norms) == 1 else math.hypot(*norms)


def product_norm(out: Columns, into: Columns) -> float | None:
    """Return ‖out·intoᵀ‖ of (n, r) and (m, r), right to about 1e-9, from sums of products; None if QR is needed.

    Memory grows neither with n and m nor with r.
    """
    import numpy as np

    rank = out.raw.shape[1]
    tiles = [slice(first, min(first + _TILE, rank)) for first in range(0, rank, _TILE)]
    bound, square = 0.0, 0.0
    with np.errstate(all="ignore"):
        for index, tile in enumerate(tiles):
            left, right = out.columns(tile), into.columns(tile)
            gram_out, gram_into = left.products(left), right.products(right)
            squares = gram_out.diagonal(), gram_into.diagonal()
            if any(column.dtype == "F64" for column in (out, into)) and any(
                not ((side > _LEAST) & (side < _MOST)).all() for side in squares
            ):
                return None
            bound += float(np.sqrt(squares[0] * squares[1]).sum())
            square += float((gram_out * gram_into).sum())
            # Both are symmetric: what is beside the diagonal counts twice.
            for other in tiles[index + 1 :]:
                gram_out = left.products(out.columns(other))
                gram_into = right.products(into.columns(other))
                square += 2 * float((gram_out * gram_into).sum())
    if bound == 0:
        return 0.0
    return square**0.5 if square > _SAFE_SHARE * bound * bound else None


def triangular_norm(out: Columns, into: Columns) -> float:
    """Return the same through QR, which loses no digits if products cancel; a result that is only rounding becomes 0.

    NaN or infinity if the factors contain them, or if the product is out of float64's range.
    """
    import numpy as np

    with np.errstate(all="ignore"):
        (left, left_powers), (right, right_powers) = _triangle(out), _triangle(into)
        return _norm_of_triangles(left, right, left_powers + right_powers)


def _norm_of_triangles(left: npt.NDArray[Any], right: npt.NDArray[Any], powers: npt.NDArray[Any]) -> float:
    import numpy as np

    used = left.any(axis=0) & right.any(axis=0)
    if not used.any():
        return 0.0
    # No column is longer than 2; a product too small for float64 to add to the largest one changes nothing.
    greatest = int(powers[used].max())
    right = np.ldexp(right[:, used], powers[used] - greatest)
    left = left[:, used]
    bound = float((np.linalg.norm(left, axis=0) * np.linalg.norm(right, axis=0)).sum())
    norm = float(np.linalg.norm(left @ right.T))
    return 0.0 if norm <= _ROUNDING * bound else float(np.ldexp(norm, greatest))


def triangle(columns: Columns) -> Columns:
    """Return the triangle R of a QR decomposition of (n, r), at most (r, r): it can replace the columns in every norm."""
    import numpy as np

    found, powers = _triangle(columns)
    return Columns(np.ldexp(found, powers), "F64")


def _triangle(columns: Columns) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return R of the columns, each divided by a power of two so that no number exceeds 1, and these powers."""
    import numpy as np

    powers = np.zeros(columns.raw.shape[1], dtype=np.int64)
    for index, block in enumerate(columns.blocks()):
        largest = np.frexp(np.abs(block).max(axis=0))[1]
        powers = np.maximum(powers, largest) if index else largest.astype(np.int64)
    found = np.empty((0, columns.raw.shape[1]))
    for block in columns.blocks():
        found = np.asarray(np.linalg.qr(np.vstack([found, np.ldexp(block, -powers)]), mode="r"))
    return found, powers
