"""What passes between a worker and its child process, as JSON: local paths and a spec, nothing of the network."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from sdk.schemas.evaluation import EvaluationReport, EvaluationSpec, MergeReport, MergeSpec
from sdk.schemas.events import Progress
from sdk.schemas.failures import FailureReason
from sdk.schemas.jobs import CheckpointPolicy
from sdk.schemas.training import QuantizationRecipe, TrainingReport, TrainingSpec
from sdk.schemas.wire import Wire

ORDER_FILE = "order.json"
RESULT_FILE = "result.json"
FAULT_FILE = "fault.json"
OUT_FOLDER = "out"

#: A training ends so that wrote a checkpoint because it was told to stop; nothing else does.
INTERRUPTED_STATUS = 75
#: The child ends so where the disk is too full even to say that it is.
DISK_FULL_STATUS = 74


class TrainingOrder(Wire):
    """Train; the adapter's files go to `out/`."""

    kind: Literal["training"] = "training"
    base: str
    base_name: str
    base_revision: str | None
    data: str
    eval_data: str | None
    spec: TrainingSpec
    checkpoint: CheckpointPolicy
    #: The folder that checkpoints are written into, beside `out`.
    checkpoints: str
    #: The folder of a checkpoint to go on from; the worker has checked its files' digests.
    resume: str | None


class EvaluationItem(Wire):
    """One thing to score."""

    base: str
    adapter: str | None
    quantization: QuantizationRecipe | None


class EvaluationOrder(Wire):
    """Score every item on the same rows."""

    kind: Literal["evaluation"] = "evaluation"
    items: list[EvaluationItem]
    data: str
    spec: EvaluationSpec


class MergeOrder(Wire):
    """Merge; the model's files go to `out/`."""

    kind: Literal["merge"] = "merge"
    base: str
    adapter: str
    quantization: QuantizationRecipe | None
    spec: MergeSpec


class Order(Wire):
    """Whichever it is."""

    order: Annotated[TrainingOrder | EvaluationOrder | MergeOrder, Field(discriminator="kind")]


class Written(Wire):
    """A checkpoint that is whole and on the disk."""

    step: Annotated[int, Field(ge=1)]
    total: Annotated[int, Field(ge=1)]
    folder: str


class News(Wire):
    """One line from the child: exactly one of the two."""

    progress: Progress | None = None
    checkpoint: Written | None = None

    @model_validator(mode="after")
    def _one(self) -> News:
        if (self.progress is None) == (self.checkpoint is None):
            raise ValueError("news is progress or a checkpoint, one of the two")
        return self


class Outcome(Wire):
    """What the child found, one of the three."""

    training: TrainingReport | None = None
    evaluations: list[EvaluationReport] | None = None
    merge: MergeReport | None = None


class Fault(Wire):
    """Why the child failed."""

    reason: FailureReason
    message: str
