"""Tensors that a model computes for itself, which earlier releases of transformers have saved with its parameters.

>>> is_buffer("h.0.attn.bias", [1, 1, 1024, 1024]), is_buffer("h.0.attn.c_attn.bias", [2304])
(True, False)
"""

from __future__ import annotations

from collections.abc import Sequence

_COMPUTED = ("inv_freq", "masked_bias", "position_ids")


def is_buffer(name: str, shape: Sequence[int]) -> bool:
    """Whether a tensor of a weight file is none of the parameters: a causal mask has four axes, and a bias one."""
    last = name.rpartition(".")[2]
    return last in _COMPUTED or (last == "bias" and len(shape) == 4)
