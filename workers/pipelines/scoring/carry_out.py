"""An evaluation as it was ordered."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from sdk.schemas.evaluation import EvaluationReport
from workers.pipelines.orders import Host
from workers.pipelines.scoring.evaluate import evaluate
from workers.pipelines.scoring.labels import evaluate_labels
from workers.pipelines.scoring.order import EvaluationItem, EvaluationOrder, EvaluationScores

ORDER = EvaluationOrder


def carry_out(order: EvaluationOrder, host: Host) -> EvaluationScores:
    """Score one item after the other."""
    return EvaluationScores(reports=[_score(order, item, host) for item in order.items])


def _score(order: EvaluationOrder, item: EvaluationItem, host: Host) -> EvaluationReport:
    if item.adapter is not None and item.labels is not None:
        return evaluate_labels(
            base=Path(item.base),
            adapter=Path(item.adapter),
            quantization=item.quantization,
            labels=item.labels,
            data=Path(order.data),
            spec=order.spec,
            on_progress=host.report,
        )
    return evaluate(
        base=Path(item.base),
        adapter=None if item.adapter is None else Path(item.adapter),
        quantization=item.quantization,
        data=Path(order.data),
        spec=order.spec,
        day=date.fromisoformat(item.template_date),
        stop_ids=item.stop_ids,
        on_progress=host.report,
    )
