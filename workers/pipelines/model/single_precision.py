"""A model whose weights are held in 16 bits, computing in float32 for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_NARROW = (torch.bfloat16, torch.float16)


@contextmanager
def in_float32(model: Any) -> Iterator[None]:
    """Let each module widen its own 16-bit weights while it computes, so that one module's are in memory twice.

    What a forward pass gets and returns is float32 then. Weights in 4 bits are multiplied in float32.
    """
    handles, computes = [], []
    for module in model.modules():
        if isinstance(getattr(module, "compute_dtype", None), torch.dtype):
            computes.append((module, module.compute_dtype))
            module.compute_dtype = torch.float32
        if any(each.dtype in _NARROW for each in _own(module)):
            narrow: list[tuple[Any, Any]] = []
            handles.append(module.register_forward_pre_hook(_widening(narrow)))
            handles.append(module.register_forward_hook(_narrowing(narrow), always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module, dtype in computes:
            module.compute_dtype = dtype


def _own(module: Any) -> Iterator[Any]:
    yield from module.parameters(recurse=False)
    yield from module.buffers(recurse=False)


def _widening(narrow: list[tuple[Any, Any]]) -> Any:
    def widen(module: Any, _given: Any) -> None:
        for each in _own(module):
            if each.dtype in _NARROW:
                narrow.append((each, each.data))
                each.data = each.data.float()

    return widen


def _narrowing(narrow: list[tuple[Any, Any]]) -> Any:
    def restore(_module: Any, _given: Any, _made: Any) -> None:
        while narrow:
            each, data = narrow.pop()
            each.data = data

    return restore
