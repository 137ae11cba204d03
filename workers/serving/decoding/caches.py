"""Caches of several texts in one: joined on the left of the wider, rows taken out again, padding cut off.

Only caches whose layers hold every token that was read can be joined (`are_whole`); windows and states can't.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer


def are_whole(cache: Any) -> bool:
    """Whether each layer of a cache has the keys and values of every token that was read, and nothing else."""
    return type(cache) is DynamicCache and all(
        # Subclasses hold a window, or more than keys and values; a layer without any uses another layer's.
        type(layer) is DynamicLayer and layer.is_initialized and layer.get_seq_length() == cache.get_seq_length()
        for layer in cache.layers
    )


def join(cache: Any, other: Any) -> None:
    """Add the rows of another cache below those of a cache, the narrower padded on the left. One layer at a time is held
    twice.
    """
    for layer, more in zip(cache.layers, other.layers, strict=True):
        layer.keys = _stacked(layer.keys, more.keys)
        layer.values = _stacked(layer.values, more.values)
        more.keys = more.values = None


def keep(cache: Any, rows: Sequence[int], *, cut: int) -> None:
    """Keep some rows of a cache, without the first `cut` places, which are padding in all of them."""
    for layer in cache.layers:
        layer.keys = _kept(layer.keys, rows, cut)
        layer.values = _kept(layer.values, rows, cut)


def size_bytes(cache: Any) -> int:
    """Return how much memory the keys and values of a cache take; states that don't grow are left out."""
    held = [getattr(layer, name, None) for layer in cache.layers for name in ("keys", "values")]
    return sum(each.numel() * each.element_size() for each in held if each is not None)


def _stacked(first: Any, second: Any) -> Any:
    width = max(first.shape[-2], second.shape[-2])
    return torch.cat([_widened(first, width), _widened(second, width)])


def _widened(states: Any, width: int) -> Any:
    """Return (rows, heads, width, dimension) of narrower states, zeros on the left: they are masked, but a product with what
    memory held would not be.
    """
    return torch.nn.functional.pad(states, (0, 0, width - states.shape[-2], 0))


def _kept(states: Any, rows: Sequence[int], cut: int) -> Any:
    # A copy, since a view would hold the memory of the rows that left.
    return states[list(rows), :, cut:].clone() if cut else states[list(rows)]
