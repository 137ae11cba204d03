"""The order that a training takes its rows in: another one in each epoch, and the same for one seed wherever it is."""

from __future__ import annotations

from collections.abc import Iterator

import torch

_PART_ROWS = 1 << 16


class ShuffledRows(torch.utils.data.Sampler[int]):  # type: ignore[misc]  # torch's types are not followed
    """The numbers of so many rows, shuffled as accelerate's SeedableRandomSampler does it.

    That one makes a list of Python's numbers of each order, 40 bytes a row; here a row takes 4.
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
