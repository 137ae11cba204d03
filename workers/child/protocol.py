"""What a worker and its child process exchange as JSON, besides the order and the report of a pipeline."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from sdk.schemas.advice import AdviceList
from sdk.schemas.events import Progress
from sdk.schemas.failures import FailureReason
from sdk.schemas.series import PointChunk
from sdk.schemas.wire import Wire

ORDER_FILE = "order.json"
RESULT_FILE = "result.json"
FAULT_FILE = "fault.json"
OUT_FOLDER = "out"

#: Names the only pipeline's module that a waiting child imports, if the first order is known to be for it.
READY_VARIABLE = "ADAPTER_WORKER_CHILD_READY"

#: The exit status of a training that wrote a checkpoint because it was told to stop; it has no other meaning.
INTERRUPTED_STATUS = 75
#: The child's exit status if the disk is too full even to report that.
DISK_FULL_STATUS = 74


class WrittenCheckpoint(Wire):
    """A checkpoint that is complete and on the disk."""

    step: Annotated[int, Field(ge=1)]
    total: Annotated[int, Field(ge=1)]
    folder: str


class ReachedRung(Wire):
    """A training of a sweep asks whether it goes on; the answer is the file `answer_file(number)` in the folder of the order,
    a `RungAnswer` that is written whole.
    """

    #: Counts from 0.
    number: Annotated[int, Field(ge=0)]
    step: Annotated[int, Field(ge=1)]
    #: The held-out loss there.
    loss: float


def answer_file(rung: int) -> str:
    """Return the name of the file with the answer to a rung."""
    return f"answer-{rung}.json"


class News(Wire):
    """One line from the child: exactly one of these."""

    progress: Progress | None = None
    checkpoint: WrittenCheckpoint | None = None
    points: PointChunk | None = None
    #: All that a training is advised so far.
    advice: AdviceList | None = None
    rung: ReachedRung | None = None

    @model_validator(mode="after")
    def _one(self) -> News:
        if len(self.model_fields_set) != 1:
            raise ValueError("a message has progress, a checkpoint, points, advice or a rung")
        return self


class Fault(Wire):
    """Why the child failed."""

    reason: FailureReason
    message: str
