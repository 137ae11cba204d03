"""The losses of single rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class RowLosses:
    """The losses of rows in their order, (rows,) each, and what they weigh: the ratio of the sums is the loss of all."""

    losses: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64]
