"""Evaluations that a worker of the tests hands in, with the scores of each row."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sdk.pulling.transfer import hash_file
from sdk.schemas.evaluation import (
    CORPUS_METRICS,
    Conditions,
    EvaluationReport,
    RowFile,
    RowScore,
    Sample,
    is_of_texts,
    is_scorer,
)
from sdk.schemas.row_file import write_rows
from support import calls
from support.merging_desk import MergingDesk
from support.people import SEEDS

CONDITIONS = Conditions(
    loss_on="completion", max_length=1024, generated_rows=2, max_new_tokens=48, stop_ids=[7], tokenizer="b" * 64
)
#: A row that was not generated, one that failed, and two with scores; the numbers have no short form.
ROWS = (
    RowScore(row=0, loss_sum=0.1 + 0.2, tokens=3, prediction="four\0\n", scores={"rouge_l": 1.0, "chrf": 99.0}),
    RowScore(row=1, loss_sum=7.0, tokens=1, prediction="три 東", scores={"rouge_l": 1 / 3}),
    RowScore(row=3, tokens=2),
    RowScore(row=4, loss_sum=1e-9, tokens=5),
)


def fresh(rows: Sequence[RowScore] = ROWS) -> list[RowScore]:
    """Rows that no other test has: the last loss differs."""
    last = rows[-1].model_copy(update={"loss_sum": next(SEEDS) / 7})
    return [*rows[:-1], last]


def report_of(
    rows: Sequence[RowScore],
    file: RowFile | None,
    /,
    *,
    conditions: Conditions = CONDITIONS,
    errors: Mapping[str, str] | None = None,
    samples: Sequence[Sample] = (),
    **said: Any,
) -> EvaluationReport:
    """What a worker reports about rows."""
    good = [row for row in rows if row.loss_sum is not None]
    unscored = sum(row.unscored is not None for row in rows)
    tokens = sum(row.tokens for row in good)
    loss = math.fsum(row.loss_sum or 0.0 for row in good) / tokens
    names = {name for row in rows for name in row.scores}
    scores = {name: [row.scores[name] for row in rows if name in row.scores] for name in names}
    size_bytes = sum(row.text_bytes or 0 for row in good)
    content = math.fsum((row.loss_sum or 0.0) - (row.end_loss or 0.0) for row in good)
    metrics = {
        "loss": loss,
        **({"bits_per_byte": content / math.log(2) / size_bytes} if size_bytes else {}),
        "rows": float(len(good)),
        "failed_rows": float(len(rows) - len(good) - unscored),
        **({"unscored_rows": float(unscored)} if unscored else {}),
        "supervised_tokens": float(tokens),
        **{name: 40.0 if name in CORPUS_METRICS else sum(found) / len(found) for name, found in scores.items()},
        **said,
    }
    return EvaluationReport(
        metrics=metrics,
        precision="float32",
        samples=list(samples),
        conditions=conditions,
        rows=file,
        scorer_errors=dict(errors or {}),
    )


def write_file(path: Path, rows: Sequence[RowScore]) -> RowFile:
    """Write a file of rows, as a worker does."""
    with path.open("wb") as file:
        count = write_rows(file, rows)
    sha256, size_bytes = hash_file(path)
    return RowFile(digest=sha256, size_bytes=size_bytes, rows=count)


def evaluated(
    desk: MergingDesk,
    ref: str,
    data: Path,
    rows: Sequence[RowScore],
    /,
    *,
    change: Callable[[RowFile, Path], RowFile] = lambda file, path: file,
    spec: dict[str, Any] | None = None,
    conditions: Conditions = CONDITIONS,
    **said: Any,
) -> str:
    """Evaluate a target and hand in its scores with those of its rows; return the id of the record."""
    asked = sorted({name for row in rows for name in row.scores if is_of_texts(name) and not is_scorer(name)})
    spec = {**({"metrics": asked} if asked else {}), **(spec or {})}
    job = desk.writer.submit_evaluation([ref], data=data, precision="native", only=True, **spec)
    held = desk.claim()
    (target,) = held.targets
    path = desk.tmp_path / f"rows-{next(SEEDS)}"
    file = change(write_file(path, rows), path)
    upload = desk.worker.uploader.upload({file.digest: path}, "sending", desk.space)
    result = calls.scored(target, report=report_of(rows, file, conditions=conditions, **said), upload=upload)
    done = calls.complete(desk.worker, held, evaluations=[result])
    assert done.state == "succeeded"
    assert job.id == held.job
    (ident,) = done.result["evaluations"]
    return str(ident)
