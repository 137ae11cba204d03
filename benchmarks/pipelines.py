"""Pipelines called in this process, as a worker's child would, with the parts of an order that benchmarks vary."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sdk.schemas.evaluation import EvaluationReport, EvaluationSpec, MergeReport, MergeSpec
from sdk.schemas.job_requests import CheckpointPolicy
from sdk.schemas.training import TrainingSpec
from sdk.schemas.training_report import TrainingReport
from workers.pipelines.model.shared_base import SharedBase
from workers.pipelines.orders import EvaluationItem, EvaluationOrder, MergeOrder, OrderedSource, TrainingOrder


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


def train(
    base: Path, data: Path, out: Path, spec: TrainingSpec, heard: Mapping[str, Any] | None = None, **fields: Any
) -> TrainingReport:
    """Train over a base into `out`, without checkpoints unless they are asked for; `heard` are functions of the host."""
    from workers.pipelines.training.train import train

    plain = {
        "base_name": "base",
        "base_revision": None,
        "eval_data": None,
        "template_date": "2026-01-31",
        "checkpoint": CheckpointPolicy(every_minutes=None),
        "checkpoints": out.with_name(f"{out.name}-checkpoints"),
        "resume": None,
    }
    rows = [OrderedSource(path=data, name=data.name)]
    order = TrainingOrder(base=base, data=rows, spec=spec, **{**plain, **fields})
    return train(order, host(out, **(heard or {}))).report


def host(out: Path, **heard: Any) -> Any:
    """A host to whom nothing is reported, but for what `heard` has."""
    unheard = {
        "report": lambda progress: None,
        "wrote_checkpoint": lambda step, total, folder: None,
        "measured": lambda chunk: None,
    }
    return SimpleNamespace(out=out, told_to_stop=False, stop_in_order=lambda: None, **{**unheard, **heard})
