"""The order of a training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sdk.schemas.job_requests import CheckpointPolicy
from sdk.schemas.lora_config import QuantizationRecipe
from sdk.schemas.recorded import Day, RecordedTraining
from sdk.schemas.training import TrainingSpec
from sdk.schemas.wire import Wire
from workers.pipelines.orders import Order


class Fit(Wire):
    """How much of an optimiser step is computed at once. It affects memory and speed, but the result only by rounding."""

    #: Rows in one forward pass; for preferences, pairs.
    micro_rows: Annotated[int, Field(ge=1)]
    #: Whether activations are computed twice instead of kept.
    checkpointing: bool
    #: Tokens whose logits are in memory at a time; None: all supervised ones of a pass.
    chunk_tokens: Annotated[int, Field(ge=1)] | None = None
    #: Whether what checkpointing keeps is offloaded to main memory.
    offloading: bool = False
    #: Whether rows are packed: a pass has as many tokens as `micro_rows` of the longest rows.
    packed: bool = False
    #: Whether attention computes each packed row separately, instead of all with a mask.
    row_attention: bool = False


class Rung(Wire):
    """The rung of a training on the way to less memory."""

    fit: Fit
    #: With which settings memory has run out so far, and what followed, in words.
    steps: Annotated[list[str], Field(default_factory=list)]
    #: The next rung; None: nothing takes less.
    below: Fit | None = None


class OrderedSource(Wire):
    """One of several files of rows."""

    path: str
    #: Its name in messages.
    name: str
    weight: float | None = None


class TrainingOrder(Order):
    """Train; the adapter's files go to the host's `out`."""

    pipeline: Literal["training"] = "training"
    base: str
    base_name: str
    base_revision: str | None
    data: str
    #: All files, if the rows are in several; `data` is the first.
    sources: list[OrderedSource] | None = None
    eval_data: str | None
    spec: TrainingSpec
    #: The date given to chat templates.
    template_date: Day
    checkpoint: CheckpointPolicy
    #: The folder for checkpoints.
    checkpoints: str
    #: The folder of the version that is continued.
    parent: str | None = None
    #: How the base was quantised for that version; None: it wasn't, or no version is continued.
    quantization: QuantizationRecipe | None = None
    #: The version whose training this one repeats.
    like: RecordedTraining | None = None
    #: The folder of a checkpoint to resume from; the worker has checked its files' digests.
    resume: str | None
    #: The folder in which weights of the base in 4 bits are kept between attempts; None: nowhere.
    kept: str | None = None
    #: The file with the current rung, written while training.
    rung_file: str | None = None
    #: The rung on which the system killed the previous process for lack of memory.
    killed_on: Rung | None = None
