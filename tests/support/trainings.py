"""Trainings in this process; a test only gives the options that it is about."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdk.schemas.advice import Advice
    from sdk.schemas.events import Progress
    from sdk.schemas.series import Point, PointChunk
    from sdk.schemas.training import TrainingSpec
    from support.trained import Trained
    from workers.pipelines.orders import OrderedSource, TrainingOrder
    from workers.pipelines.training.inputs import Inputs

#: The chosen answers are one word, and the rejected ones shout.
PREFERENCES = [
    {"prompt": f"colour {number} is ", "chosen": word, "rejected": word.upper() + "!" * (1 + number % 3)}
    for number, word in enumerate(["red", "green", "blue", "grey", "black", "white"] * 2)
]
#: Answers that are good and bad by turns, of different lengths.
LABELLED = [
    {"prompt": row["prompt"], "completion": row["chosen" if good else "rejected"], "label": good}
    for number, row in enumerate(PREFERENCES)
    for good in [number % 3 != 0]
]


@dataclass(frozen=True)
class Checkpoints:
    """Where and when a training writes checkpoints, from which one it resumes, and when it is stopped."""

    folder: Path
    every_steps: int | None = None
    every_minutes: float | None = None
    resume: Path | None = None
    written: Callable[[int, int, Path], object] = lambda *what: None
    must_stop: Callable[[], bool] = lambda: False
    measured: Callable[[PointChunk], object] = lambda chunk: None
    advised: Callable[[Sequence[Advice]], object] = lambda advice: None
    #: Is told of each rung of a sweep: its number, step and loss; and says whether the training goes on after one.
    reached: Callable[[int, int, float], object] = lambda *what: None
    goes_on: Callable[[int], bool | None] = lambda number: None


@dataclass(frozen=True)
class _Host:
    """The process of a training."""

    out: Path
    report: Callable[[Progress], None]
    kept: Checkpoints
    points: list[Point] = field(default_factory=list)

    @property
    def told_to_stop(self) -> bool:
        return self.kept.must_stop()

    def stop_in_order(self) -> None:
        """It always does."""

    def wrote_checkpoint(self, step: int, total: int, folder: Path) -> None:
        self.kept.written(step, total, folder)

    def measured(self, chunk: PointChunk) -> None:
        self.points[:] = chunk.applied(self.points)
        self.kept.measured(chunk)

    def advised(self, advice: Sequence[Advice]) -> None:
        self.kept.advised(advice)

    def reached_rung(self, number: int, step: int, loss: float) -> None:
        self.kept.reached(number, step, loss)

    def goes_on(self, number: int) -> bool | None:
        return self.kept.goes_on(number)


def order_of(
    base: Path,
    data: Path | Sequence[OrderedSource],
    *,
    spec: TrainingSpec,
    writing: Checkpoints | None = None,
    day: date = date(2026, 1, 31),
    **fields: Any,
) -> TrainingOrder:
    """An order to train over a base."""
    from sdk.schemas.job_requests import CheckpointPolicy
    from workers.pipelines.orders import OrderedSource, TrainingOrder

    writing = writing or Checkpoints(base.parent / "unread")
    plain = {"base_name": "org/tiny", "base_revision": None, "eval_data": None, "template_date": day.isoformat()}
    return TrainingOrder(
        base=base,
        data=[OrderedSource(path=data, name=data.name)] if isinstance(data, Path) else list(data),
        spec=spec,
        checkpoint=CheckpointPolicy(every_steps=writing.every_steps, every_minutes=writing.every_minutes),
        checkpoints=writing.folder,
        resume=writing.resume,
        **{**plain, **fields},
    )


def run_training(
    base: Path,
    data: Path | Sequence[OrderedSource],
    out: Path,
    *,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    checkpoints: Checkpoints | None = None,
    callbacks: Sequence[Any] = (),
    **options: Any,
) -> Trained:
    """Train over a base into `out`. Options are a `spec`, or its fields, and fields of an order: `eval_data`, `parent` …"""
    from sdk.schemas.training import TrainingSpec
    from sdk.validation import build
    from support.trained import Trained
    from workers.pipelines.training.train import train

    fields = {name: value for name, value in options.items() if name in TrainingSpec.model_fields}
    rest = {name: value for name, value in options.items() if name not in fields}
    spec = rest.pop("spec", None) or build(TrainingSpec, **fields)
    writing = checkpoints or Checkpoints(out.with_name(f"{out.name}-checkpoints"))
    host = _Host(out, on_progress, writing)
    found = train(order_of(base, data, spec=spec, writing=writing, **rest), host, callbacks)
    return Trained(**dict(found.report), points=host.points, member=found.member, seen=found.rows)


def inputs_of(base: Path, data: Path | Sequence[OrderedSource], *, spec: TrainingSpec, **rest: Any) -> Inputs:
    """The data phase of a training."""
    from workers.pipelines.training.inputs import read_inputs

    return read_inputs(order_of(base, data, spec=spec, **rest))


def whole_and_resumed(train: Callable[..., object], folder: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """What a training writes, and what one writes that goes on from the first's checkpoint of its second step."""
    train(folder / "whole", checkpoints=Checkpoints(folder / "kept", every_steps=2))
    resume = folder / "kept" / "step-00000002"
    train(folder / "resumed", checkpoints=Checkpoints(folder / "unused", resume=resume))
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
