"""Trainings in this process; a test only gives the options that it is about."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdk.schemas.training import TrainingSpec
    from sdk.schemas.training_report import TrainingReport
    from workers.pipelines.training.checkpoints import Checkpoints
    from workers.pipelines.training.inputs import Inputs

#: The chosen answers are one word, and the rejected ones shout.
PREFERENCES = [
    {"prompt": f"colour {number} is ", "chosen": word, "rejected": word.upper() + "!" * (1 + number % 3)}
    for number, word in enumerate(["red", "green", "blue", "grey", "black", "white"] * 2)
]


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


def inputs_of(base: Path, data: Any, *, spec: TrainingSpec, **rest: Any) -> Inputs:
    """The data phase of a training."""
    from workers.pipelines.training.inputs import read_inputs

    given = {"base_name": "org/tiny", "base_revision": None, "eval_data": None, "checkpoints": None, **rest}
    return read_inputs(base=base, data=data, spec=spec, **given)


def checkpoints(
    folder: Path, *, every_steps: int | None = None, resume: Path | None = None, **given: Any
) -> Checkpoints:
    """Where a training keeps checkpoints; nobody is told of them, and it is not stopped, unless a test asks for it."""
    from workers.pipelines.training.checkpoints import Checkpoints

    quiet: dict[str, Any] = {"every_s": None, "written": lambda *what: None, "must_stop": lambda: False}
    return Checkpoints(folder=folder, every_steps=every_steps, resume=resume, **{**quiet, **given})


def whole_and_resumed(train: Callable[..., object], folder: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """What a training writes, and what one writes that goes on from the first's checkpoint of its second step."""
    train(folder / "whole", checkpoints=checkpoints(folder / "kept", every_steps=2))
    resume = folder / "kept" / "step-00000002"
    train(folder / "resumed", checkpoints=checkpoints(folder / "unused", resume=resume))
    return files_of(folder / "whole"), files_of(folder / "resumed")


def files_of(folder: Path) -> dict[str, bytes]:
    """What is in the files of a folder, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def names_in(folder: Path) -> list[str]:
    """The names of what lies in a folder, sorted."""
    return sorted(path.name for path in folder.iterdir())


def save_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write rows as JSONL; return the path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
