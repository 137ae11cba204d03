"""The order of an evaluation, and its result."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sdk.schemas.evaluation import Conditions, EvaluationReport, EvaluationSpec
from sdk.schemas.failures import FailureReason
from sdk.schemas.lora_config import QuantizationRecipe
from sdk.schemas.recorded import Day
from sdk.schemas.training_report import Labels
from sdk.schemas.wire import Wire
from workers.pipelines.orders import Order


class RecordedScores(Wire):
    """The registry's scores of the same target on the same rows."""

    id: str
    conditions: Conditions
    #: Distribution → version.
    libraries: dict[str, str]
    #: Names of all scores.
    metrics: list[str]
    #: How many samples were kept.
    samples: int
    #: Whether the rows have the answers' texts.
    texts: bool = True


class EvaluationItem(Wire):
    """One thing to score."""

    base: str
    adapter: str | None
    quantization: QuantizationRecipe | None
    #: The date given to chat templates.
    template_date: Day
    #: Ids of the tokens at which the adapter was taught to stop, besides its base's.
    stop_ids: list[int]
    #: The adapter's labels, if it is a classification.
    labels: Labels | None
    #: The folder in which weights of the base in 4 bits are kept between attempts; None: nowhere.
    kept: str | None = None
    #: The newest first; empty: compute anyway.
    recorded: list[RecordedScores] = Field(default_factory=list)


class EvaluationOrder(Order):
    """Score every item on the same rows."""

    pipeline: Literal["scoring"] = "scoring"
    items: list[EvaluationItem]
    data: str
    spec: EvaluationSpec


class ItemFailure(Wire):
    """Why an item has no scores."""

    reason: FailureReason
    message: str


class AsRecorded(Wire):
    """The scores of an item are already recorded."""

    id: str


class EvaluationScores(Wire):
    """The result of each item, in their order."""

    outcomes: list[EvaluationReport | AsRecorded | ItemFailure]
