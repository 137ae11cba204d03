"""What a CPU multiplies, and in how many threads."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def in_threads(count: int | None) -> Iterator[None]:
    """Compute in so many threads, which decides the order of sums and with it their last digits; None: in as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute in one thread: with several, each of many small products would wait for the slowest thread."""
    with in_threads(1):
        yield


def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16; emulated, it is several times slower than float32."""
    if not torch.backends.mkldnn.is_available():
        return False
    if platform.machine() in {"x86_64", "AMD64"}:
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
