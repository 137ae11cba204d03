"""A target scored in this process, with what each row has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sdk.schemas.evaluation import EvaluationReport, EvaluationSpec, RowScore
from sdk.schemas.row_file import read_rows, row_file_name
from workers.pipelines.data.examples import IGNORED, Example
from workers.pipelines.scoring import evaluate as evaluating


def score(base: Path, data: Path, adapter: Path | None = None, **given: Any) -> EvaluationReport:
    """Score a base as it is stored, unless a `quantization` is given; nothing is generated unless a `spec` asks for it."""
    quiet = {"quantization": None, "spec": EvaluationSpec(generate_rows=0), "on_progress": lambda progress: None}
    return evaluating.evaluate(base=base, data=data, adapter=adapter, **{**quiet, **given})


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
