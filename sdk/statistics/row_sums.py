"""Sums of each held-out row of a training, as a member of a sweep hands them in: float32 in base64.

>>> import numpy as np
>>> unpacked_rows(packed_rows(np.array([0, 2]), np.array([1.5, 4.0]), 3)).tolist()
[1.5, 0.0, 4.0]
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sdk.schemas.sweeps import MOST_GROUPS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Whole = npt.NDArray[np.int64]


#: A recorded loss is the mean of its rows but for rounding, a share of the mean of their sizes.
_ROUNDING = 1e-5


def is_mean(recorded: float, losses: Sequence[float], weights: Sequence[float]) -> bool:
    """Whether a recorded loss is Σ loss · weight (rows,) over Σ weight (rows,), as 32-bit numbers have it.

    >>> is_mean(1.5, [1.0, 2.0], [1.0, 1.0]), is_mean(1.51, [1.0, 2.0], [1.0, 1.0])
    (True, False)
    """
    weight = sum(weights)
    return weight > 0 and abs(sum(losses) - recorded * weight) <= _ROUNDING * sum(map(abs, losses))


def packed_rows(numbers: Whole, sums: Floats, total: int) -> str:
    """Return the sums (rows,) of rows with these numbers (rows,), which count from 0, of `total` in all: a row without any has
    0. Beyond `MOST_GROUPS` rows, row i is added to number i mod `MOST_GROUPS`.
    """
    import numpy as np

    size = min(total, MOST_GROUPS)
    groups = np.bincount(numbers % size, weights=sums, minlength=size)
    return base64.b64encode(groups.astype("<f4").tobytes()).decode()


def unpacked_rows(text: str) -> Floats:
    """Return the sums (rows or groups,). Raises ValueError for a text that has none."""
    import numpy as np

    return np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float64)
