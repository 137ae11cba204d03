"""An evaluation as it was ordered."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from workers.pipelines.orders import Host
from workers.pipelines.scoring.evaluate import evaluate
from workers.pipelines.scoring.order import EvaluationOrder, EvaluationScores

ORDER = EvaluationOrder


def carry_out(order: EvaluationOrder, host: Host) -> EvaluationScores:
    """Score one item after the other."""
    reports = [
        evaluate(
            base=Path(item.base),
            adapter=None if item.adapter is None else Path(item.adapter),
            quantization=item.quantization,
            data=Path(order.data),
            spec=order.spec,
            day=date.fromisoformat(item.template_date),
            stop_ids=item.stop_ids,
            on_progress=host.report,
        )
        for item in order.items
    ]
    return EvaluationScores(reports=reports)
