"""What a worker hands to its child process, as JSON: local paths and a spec, nothing of the network."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sdk.schemas.evaluation import EvaluationReport, EvaluationSpec, MergeReport, MergeSpec
from sdk.schemas.training import QuantizationRecipe, TrainingReport, TrainingSpec
from sdk.schemas.wire import Wire

ORDER_FILE = "order.json"
RESULT_FILE = "result.json"
FAULT_FILE = "fault.json"
OUT_FOLDER = "out"


class TrainingOrder(Wire):
    """Train; the adapter's files go to `out/`."""

    kind: Literal["training"] = "training"
    base: str
    base_name: str
    base_revision: str | None
    data: str
    eval_data: str | None
    spec: TrainingSpec


class EvaluationItem(Wire):
    """One thing to score."""

    base: str
    adapter: str | None
    quantization: QuantizationRecipe | None


class EvaluationOrder(Wire):
    """Score every item on the same rows."""

    kind: Literal["evaluation"] = "evaluation"
    items: list[EvaluationItem]
    data: str
    spec: EvaluationSpec


class MergeOrder(Wire):
    """Merge; the model's files go to `out/`."""

    kind: Literal["merge"] = "merge"
    base: str
    adapter: str
    quantization: QuantizationRecipe | None
    spec: MergeSpec


class Order(Wire):
    """Whichever it is."""

    order: Annotated[TrainingOrder | EvaluationOrder | MergeOrder, Field(discriminator="kind")]


class Outcome(Wire):
    """What the child found, one of the three."""

    training: TrainingReport | None = None
    evaluations: list[EvaluationReport] | None = None
    merge: MergeReport | None = None


class Fault(Wire):
    """Why the child failed."""

    reason: str
    message: str
