"""The rows of q and k in llama.cpp's order, for models in which it rotates neighbouring rows.

>>> neighbours(8, 2).tolist()
[0, 2, 1, 3, 4, 6, 5, 7]
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def neighbours(rows: int, heads: int) -> npt.NDArray[Any]:
    """Return, for each row in llama.cpp's order, the index of transformers' row that belongs there.

    In a head of d rows, transformers rotates rows i and i + d/2 together (rotate_half), llama.cpp rows 2i and 2i + 1.
    """
    return np.arange(rows).reshape(heads, 2, -1).swapaxes(1, 2).ravel()


def halves(written: npt.NDArray[Any], heads: int) -> npt.NDArray[Any]:
    """Undo `neighbours` on the rows of a matrix, by strides: for each head first the even rows, then the odd ones."""
    size = len(written) // heads
    parts = [written[start + odd : start + size : 2] for start in range(0, len(written), size) for odd in (0, 1)]
    return np.concatenate(parts)
