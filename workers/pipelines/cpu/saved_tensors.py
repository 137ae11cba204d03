"""Tensors kept for a backward pass in 32 bits but with 16 bits of information take half as much, and equal ones are kept once.

A and B are computed in float32, so each keeps a float32 copy of its input, and a norm one of the hidden states,
although the base has these numbers in 16 bits. Here the 16 bits are kept, once for all copies, and widened again when
needed. No number changes.

>>> with narrow_saved(torch.bfloat16):
...     x = torch.tensor([1.5, 2.5] * 4096, requires_grad=True)
...     loss = (x.clone() ** 2).sum()
>>> loss.backward()
>>> x.grad[:2].tolist()
[3.0, 5.0]
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

#: Smaller tensors are kept as they are.
_LEAST_NUMBERS = 4096
#: How many of the latest tensors are searched for an equal one: the inputs of a layer's attention, and of its norm.
_LATEST = 4


class _Narrow:
    """A 16-bit tensor that stands for a 32-bit one."""

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor


@contextmanager
def narrow_saved(dtype: Any) -> Iterator[None]:
    """Keep what a forward pass saves in float32 as the 16-bit `dtype` if that loses nothing. `dtype` float32: unchanged."""
    if dtype.itemsize >= torch.float32.itemsize:
        yield
        return
    latest: deque[weakref.ref[Any]] = deque(maxlen=_LATEST)

    def pack(saved: Any) -> Any:
        if saved.dtype != torch.float32 or saved.numel() < _LEAST_NUMBERS or (saved.requires_grad and saved.is_leaf):
            return saved
        # Of most that has more bits the first numbers show it: the whole, such as that of logits, is not copied.
        first = saved.detach()[(0,) * (saved.dim() - 1)]
        if not _is_equal(first.to(dtype).float(), first):
            return saved
        narrow = saved.detach().to(dtype)
        if not _is_equal(narrow.float(), saved):
            return saved
        for each in latest:
            held = each()
            if held is not None and held.tensor.shape == narrow.shape and _is_equal(held.tensor, narrow):
                return held
        found = _Narrow(narrow)
        latest.append(weakref.ref(found))
        return found

    with torch.autograd.graph.saved_tensors_hooks(pack, _unpack):
        yield


def _unpack(kept: Any) -> Any:
    return kept.tensor.float() if isinstance(kept, _Narrow) else kept


def _is_equal(one: Any, other: Any) -> bool:
    """Whether two tensors have the same bits at the same places, compared eight bytes at a time: 2,048 × 576 numbers of 16 bits
    in 0.2 ms instead of 0.7.
    """
    if one.stride() != other.stride():
        return False
    wide = one.is_contiguous() and one.nbytes % 8 == 0 and not any(_offset_bytes(each) % 8 for each in (one, other))
    return bool(torch.equal(*(each.detach().view(-1).view(torch.int64) if wide else each for each in (one, other))))


def _offset_bytes(tensor: Any) -> int:
    """Return where a tensor begins in the storage that it is a part of."""
    return int(tensor.storage_offset() * tensor.element_size())
