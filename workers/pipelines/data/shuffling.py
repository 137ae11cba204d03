"""The order in which a training takes its rows: different in each epoch, and the same for one seed on every machine."""

from __future__ import annotations

from collections.abc import Iterator

import torch

_PART_ROWS = 1 << 16


class ShuffledRows(torch.utils.data.Sampler[int]):  # type: ignore[misc]  # torch's types are not followed
    """The numbers of all rows, shuffled as by accelerate's SeedableRandomSampler.

    That one makes a list of Python integers for each order, 40 bytes per row; here a row takes 4.
    """

    def __init__(self, rows: int, seed: int) -> None:
        self._rows, self._seed = rows, seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; called before each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._rows

    def __iter__(self) -> Iterator[int]:
        seeded = torch.Generator().manual_seed(self._seed + self._epoch)
        order = torch.randperm(self._rows, generator=seeded, dtype=torch.int32)
        for part in order.split(_PART_ROWS):
            yield from part.tolist()
        self._epoch += 1
