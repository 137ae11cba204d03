"""What a process has freed goes back to the machine: what lies between other pieces, glibc would keep for itself."""

from __future__ import annotations

import ctypes
import gc
from typing import Any

import torch

#: mallopt(3): from this size on a piece is mapped by itself.
_MMAP_THRESHOLD = -3
#: A page of a processor's larger size, so that few of them are asked for (`GLIBC_TUNABLES` of a worker's child).
_MAPPED_BYTES = 2 * 2**20


def give_back() -> None:
    """Free what is in circles, and give back what is free: the heap's pages, and a card's cached blocks.

    What comes next may need pieces that none of the free ones is large enough for, and then the process would have both.
    """
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    give_pages_back()


def give_pages_back() -> None:
    """Give the heap's free pages back, also those between pieces that are in use."""
    _of_glibc("malloc_trim", 0)


def map_large_pieces() -> None:
    """Have each large piece mapped by itself from now on, so that it goes back once it is freed, and leaves no gap.

    A training with checkpointing takes half the memory by that, and the system an eighth of its time to make the pages.
    """
    _of_glibc("mallopt", _MMAP_THRESHOLD, _MAPPED_BYTES)


def _of_glibc(name: str, *given: int) -> None:
    """Call one of its functions; other C libraries have none of that name."""
    found: Any = getattr(ctypes.CDLL(None), name, None)
    if found is not None:
        found(*given)
