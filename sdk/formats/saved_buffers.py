"""Tensors that a model computes itself, but that earlier releases of transformers saved with its parameters.

>>> is_buffer("h.0.attn.bias", [1, 1, 1024, 1024]), is_buffer("h.0.attn.c_attn.bias", [2304])
(True, False)
"""

from __future__ import annotations

from collections.abc import Sequence

_COMPUTED = ("inv_freq", "masked_bias", "position_ids")


def is_buffer(name: str, shape: Sequence[int]) -> bool:
    """Whether a tensor in a weight file is a buffer, not a parameter: a causal mask has four axes, a bias has one."""
    last = name.rpartition(".")[2]
    return last in _COMPUTED or (last == "bias" and len(shape) == 4)
