"""By how much an adapter's update is scaled: s = α/r, or α/√r with rsLoRA."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import LoraLayer

#: Beside a weight of 1, float32 loses what is smaller.
LEAST_SCALE = torch.finfo(torch.float32).eps


def lost_scale(model: Any) -> str | None:
    """Say that alpha is the reason why nothing is learnt, if float32 loses the smallest update of a PeftModel for its
    scale alone; else None.
    """
    scales = [scale for layer in model.modules() if isinstance(layer, LoraLayer) for scale in layer.scaling.values()]
    smallest = min(scales, default=1.0)
    if smallest >= LEAST_SCALE:
        return None
    return f"alpha scales the update by {smallest:.2g}, which is lost in float32; give a larger alpha, such as 2·rank"
