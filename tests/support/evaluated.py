"""A target scored in this process, with what each row has."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sdk.schemas.evaluation import MOST_TARGET_ROWS, EvaluationReport, EvaluationSpec, RowScore
from sdk.schemas.events import Progress
from sdk.schemas.row_file import read_rows, row_file_name
from support.hosts import InProcess
from workers.pipelines.data.examples import IGNORED, Example
from workers.pipelines.model.shared_base import SharedBase
from workers.pipelines.orders import EvaluationItem, EvaluationOrder
from workers.pipelines.scoring.evaluate import evaluate


def score(
    base: Path,
    data: Path,
    adapter: Path | None = None,
    *,
    spec: EvaluationSpec | None = None,
    rows_to: Path | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    bases: SharedBase | None = None,
    most_rows: int = MOST_TARGET_ROWS,
    **given: Any,
) -> EvaluationReport:
    """Score a base as it is stored, unless a `quantization` is given; nothing is generated unless a `spec` asks for it."""
    plain = {"quantization": None, "template_date": "2026-01-31", "stop_ids": [], "labels": None}
    item = EvaluationItem(base=base, adapter=adapter, **{**plain, **given})
    order = EvaluationOrder(items=[item], data=data, spec=spec or EvaluationSpec(generate_rows=0))
    with tempfile.TemporaryDirectory() as folder:
        host = InProcess(rows_to or Path(folder), on_progress)
        return evaluate(item, order, host, bases or SharedBase(), most_rows)


def plain_loss(model: Any, example: Example) -> float:
    """Return the summed loss of an example over a model of plain transformers, in float64, without padding."""
    import torch

    with torch.no_grad():
        logits = model(torch.tensor([example.input_ids])).logits[0].double().log_softmax(-1)
    places = [place for place, label in enumerate(example.labels) if label != IGNORED]
    return -sum(float(logits[place - 1, example.labels[place]]) for place in places)


def evaluated(
    base: Path, data: Path, out: Path, spec: EvaluationSpec, adapter: Path | None = None
) -> tuple[EvaluationReport, list[RowScore]]:
    """Score a base as it is stored, bare or with an adapter; the file of the rows is written to `out`."""
    report = score(base, data, adapter, spec=spec, rows_to=out)
    return report, rows_of(report, out)


def rows_of(report: EvaluationReport, folder: Path) -> list[RowScore]:
    """Read the file of the rows that a report names."""
    with (folder / row_file_name(report.rows.digest)).open("rb") as file:
        return list(read_rows(file))
