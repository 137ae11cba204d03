"""Whether a training keeps its activations or computes them twice: the one rule for workers, and for plans that predict it.

>>> keeps_activations(4 * 10**9, free_bytes=10**10), keeps_activations(6 * 10**9, free_bytes=10**10)
(True, False)
"""

from __future__ import annotations

#: Activations and logits may take this share of the memory that is free once the base is loaded.
ACTIVATION_SHARE = 0.5


def keeps_activations(pass_bytes: int, *, free_bytes: int) -> bool:
    """Whether a forward pass keeps its activations; `free_bytes` is the free memory once base and adapter are loaded."""
    return pass_bytes <= ACTIVATION_SHARE * free_bytes
