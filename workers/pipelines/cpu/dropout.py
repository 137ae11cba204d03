"""Dropout of the inputs of A: drawing torch's mask takes a sixth of a training step."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import LoraLayer


def draw_by_sixteen_bits(model: Any, p: float) -> None:
    """Give every LoRA layer of a PeftModel this dropout instead of torch's."""
    for module in model.modules():
        if isinstance(module, LoraLayer):
            for name in module.lora_dropout:
                module.lora_dropout[name] = SixteenBitDropout(p)


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
