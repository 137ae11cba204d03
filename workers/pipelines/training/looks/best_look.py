"""What is kept of looks for later ones: the losses of rows, by which looks are compared, and the weights of the best one."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from safetensors.torch import load, load_file, save

from sdk.schemas.looks import HigherLoss
from sdk.statistics.bootstrap import paired_ratio
from sdk.statistics.comparison import compare_rows
from workers.pipelines.model.adapters import save_tensors
from workers.pipelines.training.checkpoints import BEST_NAME, LOSSES_NAME
from workers.pipelines.training.looks.row_losses import RowLosses


def higher(step: int, before: RowLosses | None, rows: RowLosses) -> HigherLoss | None:
    """Return how much higher the losses of rows are than at an earlier look; None for too few rows to tell."""
    if before is None:
        return None
    found = compare_rows(paired_ratio(rows.losses - before.losses, rows.weights), seed="looks")
    if found.low is None or found.high is None:
        return None
    return HigherLoss(step=step, mean=found.difference, low=found.low, high=found.high)


class KeptLooks:
    """The losses of rows at the best look and at the lowest, and the best weights: these in a file without a name."""

    def __init__(self, resumed: Path | None) -> None:
        """Go on from the folder of a checkpoint, if there is one."""
        #: Of the look with the lowest loss, also if that was before the first step, and of the best one of what was trained.
        self.lowest: RowLosses | None = None
        self.best: RowLosses | None = None
        #: The last look against the best one before it; None: there is none, or too few rows.
        self.margin: HigherLoss | None = None
        self._weights: IO[bytes] | None = None
        if resumed is None:
            return
        if (path := resumed / LOSSES_NAME).exists():
            stored = {name: tensor.numpy() for name, tensor in load_file(path).items()}
            self.lowest = RowLosses(stored["lowest"], stored["weights"])
            self.best = RowLosses(stored["best"], stored["weights"]) if "best" in stored else None
        if (path := resumed / BEST_NAME).exists():
            self._put(path.read_bytes())

    def note(self, rows: RowLosses, *, is_lowest: bool, is_best: bool, best_step: int) -> None:
        """Take the losses of a look, whose best look before it was at `best_step`."""
        self.margin = None if self.best is None else higher(best_step, self.best, rows)
        self.lowest = rows if is_lowest else self.lowest
        self.best = rows if is_best else self.best

    def keep(self, tensors: Mapping[str, Any]) -> None:
        """Keep the weights of the best look, in float32."""
        self._put(save({name: each.detach().to("cpu", torch.float32).contiguous() for name, each in tensors.items()}))

    def weights(self) -> dict[str, Any]:
        """Return the weights of the best look by their names in an adapter's file."""
        assert self._weights is not None
        self._weights.seek(0)
        return dict(load(self._weights.read()))

    def write(self, folder: Path) -> None:
        """Write what there is into a checkpoint's folder. Raises OSError."""
        if self.lowest is not None:
            named = {"lowest": self.lowest, "best": self.best}
            losses = {name: torch.tensor(each.losses) for name, each in named.items() if each is not None}
            save_tensors({**losses, "weights": torch.tensor(self.lowest.weights)}, folder / LOSSES_NAME)
        if self._weights is not None:
            self._weights.seek(0)
            with (folder / BEST_NAME).open("wb") as file:
                shutil.copyfileobj(self._weights, file)

    def _put(self, content: bytes) -> None:
        """Replace the weights by others, once these are written whole."""
        file = tempfile.TemporaryFile()  # noqa: SIM115 - closed below
        weakref.finalize(self, file.close)
        file.write(content)
        if self._weights is not None:
            self._weights.close()
        self._weights = file
