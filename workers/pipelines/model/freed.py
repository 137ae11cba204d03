"""What a process has freed goes back to the machine: what is in pieces, glibc would keep for itself."""

from __future__ import annotations

import ctypes
import gc

import torch


def give_back() -> None:
    """Free what is in circles, and give back what is free: the heap's pages, and a card's cached blocks.

    What comes next may need pieces that none of the free ones is large enough for, and then the process would have both.
    """
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    # Other C libraries than glibc have no such function.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
