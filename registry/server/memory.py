"""Keeps a server process from holding on to memory that was freed: glibc would keep large pieces that are between others."""

from __future__ import annotations

import ctypes
from typing import Any

#: mallopt(3): pieces of at least this size are mapped separately. Unless it is set, glibc raises it to the size of whatever
#: is freed, up to 32 MiB, and bodies and answers of 4 MiB leave gaps in the heap of each thread.
_MMAP_THRESHOLD, _MAPPED_BYTES = -3, 1024 * 1024
#: How much may be free at the end of a heap. Setting the other fixes this one at 128 KiB, which each request would give
#: back and take again.
_TRIM_THRESHOLD, _FREE_BYTES = -1, 8 * 1024 * 1024


def map_large_pieces() -> None:
    """From now on, map each large piece separately, so that it is returned once it is freed.

    Other C libraries than glibc are left as they are.
    """
    mallopt: Any = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _MAPPED_BYTES)
        mallopt(_TRIM_THRESHOLD, _FREE_BYTES)
