"""Threads that each compute on their own: with several threads per product, every small product would wait for the slowest."""

from __future__ import annotations

import contextlib
import math
import sys
import threading
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from workers.pipelines.merging.plan import MergedTensor

#: Threads per merge. More of them would wait for each other during the Python code between products.
_MOST = 2


def at_once(written: Sequence[MergedTensor], packed: Container[str | None]) -> int:
    """Return how many tensors are computed at a time: one if whole weights are held in 4 bits."""
    held = any(each.four_bits or each.source in packed for each in written)
    return 1 if held else _MOST


class ScratchMemory(threading.local):
    """Memory that each thread reuses: allocating it again takes as long as filling it."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, Any], Any] = {}

    def of(self, what: str, shape: tuple[int, ...], dtype: str) -> Any:
        """Return memory for numbers of a shape; the same request returns the same memory again."""
        count, held = math.prod(shape), self._held.get((what, dtype))
        if held is None or held.size < count:
            held = self._held[what, dtype] = np.empty(count, dtype)
        return held[:count].reshape(shape)


@contextlib.contextmanager
def threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Run work in threads; if the block ends with an error, work that has not begun is dropped."""
    # numpy's number of threads is set for the whole child, by its environment.
    torch = sys.modules.get("torch")
    # OpenMP keeps this number per thread.
    each = {} if torch is None else {"initializer": torch.set_num_threads, "initargs": (1,)}
    executor = ThreadPoolExecutor(count, "merge", **each)
    with contextlib.ExitStack() as held:
        if torch is not None:
            from workers.pipelines.cpu.arithmetic import one_thread

            held.enter_context(one_thread())
        try:
            yield executor
        finally:
            executor.shutdown(cancel_futures=True)
