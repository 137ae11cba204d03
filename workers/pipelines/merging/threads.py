"""Threads that each compute by themselves: with several to a product, each small one waits for the slowest of them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from workers.pipelines.merging.plan import Written
from workers.pipelines.model.device import one_thread

#: Of one merge. More of them wait for each other at what Python does between the products.
_MOST = 2


def at_once(written: Sequence[Written], packed: Container[str | None]) -> int:
    """Return how many tensors are computed at a time: one where whole weights are held in 4 bits."""
    held = any(each.four_bits or each.source in packed for each in written)
    return 1 if held else _MOST


class Room(threading.local):
    """Memory that each thread uses again: to ask for it anew takes as long as to fill it."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, Any], Any] = {}

    def of(self, what: str, rows: int, columns: int, dtype: Any) -> Any:
        """Return memory for (rows, columns) numbers, which is given again when the same is asked for."""
        held = self._held.get((what, dtype))
        if held is None or held.numel() < rows * columns:
            held = self._held[what, dtype] = torch.empty(rows * columns, dtype=dtype)
        return held[: rows * columns].view(rows, columns)


@contextlib.contextmanager
def threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Run work in threads; what has not begun when the block ends by an error is dropped."""
    # OpenMP keeps the number for each thread.
    executor = ThreadPoolExecutor(count, "merge", initializer=torch.set_num_threads, initargs=(1,))
    with one_thread():
        try:
            yield executor
        finally:
            executor.shutdown(cancel_futures=True)
