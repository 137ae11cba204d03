"""How large an adapter's update is: its scale, s = α/r or α/√r with rsLoRA, and its norm beside that of the weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.utils.integrations import dequantize_module_weight

from sdk.errors import VerificationFailed
from sdk.lora.delta_norms import delta_norms
from sdk.schemas.lora_config import LoraConfig

#: Beside a weight of 1, float32 loses what is smaller.
LEAST_SCALE = torch.finfo(torch.float32).eps
#: How many rows of a weight are widened at once.
_ROWS = 1024


def lost_scale(model: Any) -> str | None:
    """Say that alpha is the reason why nothing is learnt, if float32 loses the smallest update of a PeftModel for its
    scale alone; else None.
    """
    scales = [scale for layer in model.modules() if isinstance(layer, LoraLayer) for scale in layer.scaling.values()]
    smallest = min(scales, default=1.0)
    if smallest >= LEAST_SCALE:
        return None
    return f"alpha scales the update by {smallest:.2g}, which is lost in float32; give a larger alpha, such as 2·rank"


def largest_update(model: Any, out: Path, lora: LoraConfig) -> float | None:
    """Return the largest ‖ΔW‖/‖W‖ of a module, of the adapter in the folder `out` that the PeftModel `model` has.

    Frobenius norms; ΔW is s·B·A, and W what it is added to, as loaded. Modules with stacked experts or a W of zeros are
    left out; None if there are no others.
    """
    base, shares = model.get_base_model(), []
    try:
        norms = delta_norms(out, lora).modules
    except VerificationFailed:
        return None
    for name, one in norms.items():
        weight = None if one.experts else _weight_of(base, name)
        if weight is not None and (size := _norm(weight)) > 0:
            shares.append(one.norm / size)
    return max(shares, default=None)


def _weight_of(base: Any, name: str) -> Any:
    """The weight that a module's update is added to; None if the model has no such module with one."""
    try:
        layer = base.get_submodule(name)
    except AttributeError:
        return None
    if not isinstance(layer, LoraLayer) or not hasattr(layer.get_base_layer(), "weight"):
        return None
    return dequantize_module_weight(layer.get_base_layer())


def _norm(weight: Any) -> float:
    with torch.no_grad():
        return math.sqrt(sum(float(rows.float().norm()) ** 2 for rows in weight.split(_ROWS)))
