"""The order of a training."""

from __future__ import annotations

from typing import Literal

from sdk.schemas.jobs import CheckpointPolicy
from sdk.schemas.recorded import RecordedTraining
from sdk.schemas.training import Day, QuantizationRecipe, TrainingSpec
from sdk.schemas.wire import Wire
from workers.pipelines.orders import Order


class OrderedSource(Wire):
    """One of several files of rows."""

    path: str
    #: What messages call it.
    name: str
    weight: float | None = None


class TrainingOrder(Order):
    """Train; the adapter's files go to the host's `out`."""

    pipeline: Literal["training"] = "training"
    base: str
    base_name: str
    base_revision: str | None
    data: str
    #: Where rows are of several files, all of them; `data` is the first.
    sources: list[OrderedSource] | None = None
    eval_data: str | None
    spec: TrainingSpec
    #: What chat templates are told that the date is.
    template_date: Day
    checkpoint: CheckpointPolicy
    #: The folder that checkpoints are written into.
    checkpoints: str
    #: The folder of the version that is continued.
    parent: str | None = None
    #: How the base was quantised for that one; None: not, or nothing is continued.
    quantization: QuantizationRecipe | None = None
    #: The version whose training this is again.
    like: RecordedTraining | None = None
    #: The folder of a checkpoint to resume from; the worker has checked its files' digests.
    resume: str | None
