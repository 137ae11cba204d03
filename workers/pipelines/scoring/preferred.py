"""What a version makes of preferences, against its base."""

from __future__ import annotations

from typing import Any

from peft import PeftModel

from sdk.formats.peft_unusable import changes_base
from workers.pipelines.data.batches import mean_loss
from workers.pipelines.data.preferences import Pair, judged, preference_scores
from workers.pipelines.data.tokenise import Tokenised
from workers.pipelines.model.device import Device


def preferred_by(model: Any, rows: Tokenised, pad_id: int, batch_size: int, device: Device) -> dict[str, float]:
    """Return the loss of rejected answers, and how an adapter prefers the chosen ones against its base; nothing of other rows.

    For a bare base, and for an adapter that began by changing its base, there is nothing to compare with.
    """
    if rows.shape != "preference":
        return {}
    place = device.torch_device
    if not isinstance(model, PeftModel) or any(
        changes_base(config.init_lora_weights) for config in model.peft_config.values()
    ):
        *_, loss = mean_loss(model, rows.examples[1::2], pad_id, batch_size, place)
        return {"rejected_loss": loss}
    pairs: list[Pair] = []
    for part in judged(model, rows.examples, pad_id, batch_size, place):
        pairs += part
    found = preference_scores(pairs)
    return {name: found[name] for name in ("rejected_loss", "preference_accuracy", "preference_margin")}
