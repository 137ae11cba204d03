"""The order of an evaluation, and what it finds."""

from __future__ import annotations

from typing import Literal

from sdk.schemas.evaluation import EvaluationReport, EvaluationSpec
from sdk.schemas.failures import FailureReason
from sdk.schemas.training import Day, Labels, QuantizationRecipe
from sdk.schemas.wire import Wire
from workers.pipelines.orders import Order


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


class EvaluationScores(Wire):
    """What became of each item, in their order."""

    outcomes: list[EvaluationReport | ItemFailure]
