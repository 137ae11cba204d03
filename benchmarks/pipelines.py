"""Pipelines called in this process, as a worker's child would, with the parts of an order that benchmarks vary."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sdk.schemas.evaluation import EvaluationReport, EvaluationSpec, MergeReport, MergeSpec
from workers.pipelines.model.shared_base import SharedBase
from workers.pipelines.orders import EvaluationItem, EvaluationOrder, MergeOrder


def score(
    base: Path, data: Path, adapter: Path | None, spec: EvaluationSpec, out: Path | None = None, **item: Any
) -> EvaluationReport:
    """Score a target; its rows' scores are written to `out`. The base is as it is stored, unless a `quantization` is given."""
    from workers.pipelines.scoring.evaluate import evaluate

    bases = item.pop("bases", None) or SharedBase()
    fields = {"quantization": None, "template_date": "2026-01-31", "stop_ids": [], "labels": None, **item}
    order = EvaluationOrder(items=[EvaluationItem(base=base, adapter=adapter, **fields)], data=data, spec=spec)
    with tempfile.TemporaryDirectory() as scratch:
        return evaluate(order.items[0], order, host(out or Path(scratch)), bases)


def merge(base: Path, adapter: Path, out: Path, spec: MergeSpec | None = None, **fields: Any) -> MergeReport:
    """Merge an adapter into `out`; it was trained over the base as it is stored, unless a `quantization` is given."""
    from workers.pipelines.merging.merge import carry_out

    given = {"quantization": None, "labels": None, "spec": spec or MergeSpec(), **fields}
    return carry_out(MergeOrder(base=base, adapter=adapter, **given), host(out))


def host(out: Path) -> Any:
    """A host to whom nothing is reported."""
    return SimpleNamespace(out=out, report=lambda progress: None, told_to_stop=False)
