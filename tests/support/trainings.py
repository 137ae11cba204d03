"""Trainings in this process; a test only gives the options that it is about."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdk.schemas.training_report import TrainingReport


def run_training(base: Path, rows: Path, out: Path, **options: Any) -> TrainingReport:
    """Train over a base into `out`. Options are a `spec`, or its fields, and what else `train` takes: `eval_data`, `parent` …"""
    from sdk.schemas.training import TrainingSpec
    from sdk.validation import build
    from workers.pipelines.training.train import train

    fields = {name: value for name, value in options.items() if name in TrainingSpec.model_fields}
    given: dict[str, Any] = {
        "base_name": "org/tiny",
        "base_revision": None,
        "eval_data": None,
        "on_progress": lambda progress: None,
        **{name: value for name, value in options.items() if name not in fields},
    }
    if "spec" not in given:
        given["spec"] = build(TrainingSpec, **fields)
    return train(base=base, data=rows, out=out, **given)


def save_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write rows as JSONL; return the path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
