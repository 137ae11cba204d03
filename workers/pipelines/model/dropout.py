"""A base's own dropout, and one for CPUs, where drawing torch's mask takes a sixth of a training step."""

from __future__ import annotations

import re
from typing import Any

import torch

#: The names in modules and configs for the share that they drop, including whole layers, or for the noise that they add.
_DRAWS = re.compile("drop|jitter")


def own_dropout(model: Any) -> float:
    """Return the largest dropout probability of a model in training; 0 if it drops nothing."""
    found = [0.0]
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            found.append(float(module.p))
        # Some models store only the number and call the function.
        found += [value for name, value in vars(module).items() if "dropout" in name and isinstance(value, float)]
    return max(found)


def drop_nothing(model: Any) -> None:
    """Make a model compute in training as in evaluation, without drawing anything at random."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if isinstance(value, float) and _DRAWS.search(name):
                setattr(module, name, 0.0)
    for config in {
        id(module.config): module.config for module in model.modules() if hasattr(module, "config")
    }.values():
        for name, value in list(vars(config).items()):
            if isinstance(value, float) and _DRAWS.search(name):
                setattr(config, name, 0.0)


class SixteenBitDropout(torch.nn.Module):  # type: ignore[misc]  # torch's types are not followed
    """Dropout with an independent mask per element, drawn four elements at a time.

    torch draws one Bernoulli variable per element in a single thread. Here each 64-bit random integer decides four
    elements by 16 bits each, so that `p` is met to 1/65536. Kept elements are scaled by 1/(1-p), as usual.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        #: Elements whose 16 bits, read as a signed integer, are below this are dropped.
        self._threshold = round(p * 65536) - 32768
        self._scale = 65536 / (65536 - round(p * 65536))

    def forward(self, x: Any) -> Any:
        """Return `x` of any shape, with elements dropped in training, and unchanged otherwise."""
        if not self.training:
            return x
        # `random_` fills all 64 bits only between these bounds.
        words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        bits = words.view(torch.int16)[: x.numel()].view(x.shape)
        # The backward pass keeps the mask, one byte per element, not a copy of `x`.
        return (x * self._scale).masked_fill_(bits < self._threshold, 0.0)
