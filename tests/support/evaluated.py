"""A target scored in this process, with what each row has."""

from __future__ import annotations

from pathlib import Path

from sdk.schemas.evaluation import EvaluationReport, EvaluationSpec, RowScore
from sdk.schemas.row_file import read_rows, row_file_name
from workers.pipelines.scoring import evaluate as evaluating


def evaluated(
    base: Path, data: Path, out: Path, spec: EvaluationSpec, adapter: Path | None = None
) -> tuple[EvaluationReport, list[RowScore]]:
    """Score a base as it is stored, bare or with an adapter; the file of the rows is written to `out`."""
    report = evaluating.evaluate(
        base=base,
        adapter=adapter,
        quantization=None,
        data=data,
        spec=spec,
        on_progress=lambda progress: None,
        rows_to=out,
    )
    assert report.rows is not None
    with (out / row_file_name(report.rows.digest)).open("rb") as file:
        return report, list(read_rows(file))
