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
    #: What the adapter tells apart, where it is a classification.
    labels: Labels | None
    spec: MergeSpec
    #: The folder that weights of the base in 4 bits are kept in between attempts; None: nowhere.
    kept: str | None = None
    #: Of ΔW by module, as they were stored at publication; None of a version that an earlier release published.
    norms: Norms | None = None
