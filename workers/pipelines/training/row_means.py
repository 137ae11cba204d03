"""The losses of a training's single rows, added up in the passes that it takes anyway."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from workers.pipelines.data.examples import IGNORED
from workers.pipelines.data.objective import Batch, TokenLosses

#: Under which name a batch has the numbers of its rows, (batch,), or of each token's row where they are packed.
ROW = "row"


class RowMeans:
    """The mean loss of each row over its passes in this process, in nats per supervised token."""

    def __init__(self, rows: int) -> None:
        self._sums = np.zeros(rows, dtype=np.float32)
        self._passes = np.zeros(rows, dtype=np.int32)

    def add(self, rows: Sequence[int], means: Sequence[float]) -> None:
        """Take the rows of one step, each once."""
        self._sums[rows] += np.array(means, dtype=np.float32)
        self._passes[rows] += 1

    def means(self) -> npt.NDArray[np.floating[Any]]:
        """Return them in the order of the rows, (rows,); NaN for those that were in no step."""
        with np.errstate(invalid="ignore"):
            return self._sums / self._passes


class StepLosses(NamedTuple):
    """The losses of one step: their mean, and those of its rows, in rising order of their numbers, if these are counted."""

    mean: float
    rows: list[float]


class StepRowLosses:
    """Adds up the losses of the rows of one step, whatever the parts in which it is computed."""

    def __init__(self, batch: Batch) -> None:
        """`batch` is the step's; without numbers of rows nothing is counted."""
        self._numbers: Any = None
        if ROW in batch:
            self._numbers, order = batch[ROW].sort()
            self._sums = torch.zeros(len(order), device=order.device)
            self._counts = (batch["labels"][:, 1:] != IGNORED).sum(dim=1)[order]

    def of(self, losses: TokenLosses) -> TokenLosses:
        """Return what computes the losses of tokens, and adds them up."""
        return losses if self._numbers is None else lambda model, part: self._added(part, losses(model, part))

    def found(self, loss: Any) -> StepLosses:
        """Return the step's mean loss, a scalar on the device, and those of its rows, in one transfer."""
        if self._numbers is None:
            return StepLosses(float(loss), [])
        mean, *rows = torch.cat([loss[None], self._sums / self._counts.clamp(min=1)]).tolist()
        return StepLosses(mean, rows)

    def _added(self, part: Batch, found: tuple[Any, Any]) -> tuple[Any, Any]:
        learnt = part["labels"][:, 1:] != IGNORED
        rows = part[ROW] if part[ROW].dim() > 1 else part[ROW][:, None].expand(part["labels"].shape)
        # The losses are in the order of their tokens.
        places = torch.searchsorted(self._numbers, rows[:, 1:][learnt])
        self._sums.index_add_(0, places, found[0].detach().float())
        return found
