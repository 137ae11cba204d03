"""What a CPU multiplies, and in how many threads."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute in one thread: with several, each of many small products would wait for the slowest thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16; emulated, it is several times slower than float32."""
    if not torch.backends.mkldnn.is_available():
        return False
    if platform.machine() in {"x86_64", "AMD64"}:
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
