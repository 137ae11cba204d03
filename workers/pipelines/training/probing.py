"""A training's last check of what it wrote: the saved adapter on the base, compared with the base alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sdk.schemas.failures import FailureReason
from sdk.schemas.lora_config import QuantizationRecipe
from sdk.schemas.probe import LEAST_LOGIT_GAP, ProbeReport
from sdk.schemas.serving import ServedProbe
from workers.pipelines.data.continuations import served_probe
from workers.pipelines.data.probe import probe
from workers.pipelines.errors import PipelineError
from workers.pipelines.model.adapters import load_adapter, unload
from workers.pipelines.model.device import give_back
from workers.pipelines.model.trained_whole import restore_base
from workers.pipelines.training.inputs import Inputs
from workers.pipelines.training.short_of_memory import looked_twice


def probe_saved(
    given: Inputs, model: Any, out: Path, quantization: QuantizationRecipe | None
) -> tuple[ProbeReport, ServedProbe | None]:
    """Remove the trained adapter from its base, load the one in the folder `out` instead, and measure that; return also what it
    answers, unless it predicts no tokens.

    The model can't be trained further afterwards; the state of random number generators is unchanged. Raises
    PipelineError if the saved files don't affect the base.
    """
    # Activations are freed, and a text's logits have another size.
    give_back()
    devices = [given.device.torch_device] if given.device.kind == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        restore_base(model)
        saved = load_adapter(unload(model), out)
        labelled = given.classes is not None
        over = (saved, given.tokenizer, given.order.base, given.device.torch_device)
        found = looked_twice(lambda: probe(*over, labelled=labelled))
        return found, None if labelled else looked_twice(lambda: served_probe(*over, quantization=quantization))


def require_learnt(found: ProbeReport, dtype: str, *, why: str | None) -> None:
    """Raise PipelineError if an adapter moves no logit on the fixed texts; `why` is the reason, if it is known."""
    if found.logit_gap < LEAST_LOGIT_GAP:
        raise PipelineError(
            FailureReason.UNTRAINED,
            f"The trained adapter moves no logit of the base by more than {found.logit_gap:.3g} on {len(found.texts)} fixed"
            f" texts (computed in {dtype}), so it changes nothing"
            + ("; raise lr, give more rows or steps, or choose other targets." if why is None else f": {why}."),
        )
