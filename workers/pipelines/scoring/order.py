"""The order of an evaluation, and what it finds."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sdk.schemas.evaluation import Conditions, EvaluationReport, EvaluationSpec
from sdk.schemas.failures import FailureReason
from sdk.schemas.lora_config import QuantizationRecipe
from sdk.schemas.rendering import Day
from sdk.schemas.training_report import Labels
from sdk.schemas.wire import Wire
from workers.pipelines.orders import Order


class RecordedScores(Wire):
    """Scores of the same target on the same rows that the registry has."""

    id: str
    conditions: Conditions
    #: Distribution → version.
    libraries: dict[str, str]
    #: Names of all that was scored.
    metrics: list[str]
    #: How many samples were kept.
    samples: int
    #: Whether the rows have what was answered.
    texts: bool = True


class EvaluationItem(Wire):
    """One thing to score."""

    base: str
    adapter: str | None
    quantization: QuantizationRecipe | None
    #: What chat templates are told that the date is.
    template_date: Day
    #: Ids of the tokens that the adapter was taught to stop at, beside those of its base.
    stop_ids: list[int]
    #: What the adapter tells apart, where it is a classification.
    labels: Labels | None
    #: The folder that weights of the base in 4 bits are kept in between attempts; None: nowhere.
    kept: str | None = None
    #: The newest first; empty: compute in any case.
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
    """The scores of an item are in the record."""

    id: str


class EvaluationScores(Wire):
    """What became of each item, in their order."""

    outcomes: list[EvaluationReport | AsRecorded | ItemFailure]
