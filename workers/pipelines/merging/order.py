"""The order of a merge."""

from __future__ import annotations

from typing import Literal

from sdk.schemas.evaluation import MergeSpec
from sdk.schemas.lora_config import QuantizationRecipe
from sdk.schemas.probe import Norms
from sdk.schemas.training_report import Labels
from workers.pipelines.orders import Order


class MergeOrder(Order):
    """Merge; the model's files go to the host's `out`."""

    pipeline: Literal["merging"] = "merging"
    base: str
    adapter: str
    quantization: QuantizationRecipe | None
    #: The adapter's labels, if it is a classification.
    labels: Labels | None
    spec: MergeSpec
    #: The folder in which weights of the base in 4 bits are kept between attempts; None: nowhere.
    kept: str | None = None
    #: The norms of ΔW by module, as stored at publication; None if they could not be derived.
    norms: Norms | None = None
