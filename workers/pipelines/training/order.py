"""The order of a training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sdk.schemas.job_requests import CheckpointPolicy
from sdk.schemas.lora_config import QuantizationRecipe
from sdk.schemas.recorded import RecordedTraining
from sdk.schemas.rendering import Day
from sdk.schemas.training import TrainingSpec
from sdk.schemas.wire import Wire
from workers.pipelines.orders import Order


class Fit(Wire):
    """How much of an optimiser step is computed at once. It changes memory and speed, and what is learnt by roundings alone."""

    #: Rows in one forward pass, of a preference pairs.
    micro_rows: Annotated[int, Field(ge=1)]
    #: Whether activations are computed twice and not kept.
    checkpointing: bool
    #: Tokens whose logits are there at a time; None: all supervised ones of a pass.
    chunk_tokens: Annotated[int, Field(ge=1)] | None = None
    #: Whether what checkpointing keeps waits in main memory.
    offloading: bool = False
    #: Whether rows are packed beside each other: a pass has as many tokens as `micro_rows` of the longest rows.
    packed: bool = False
    #: Whether attention takes each packed row by itself, and not all under a mask, as earlier releases had it.
    row_attention: bool = False


class Rung(Wire):
    """Where a training stands on the way to less memory."""

    fit: Fit
    #: What memory has run out with so far, and what came after it, in words.
    steps: Annotated[list[str], Field(default_factory=list)]
    #: What would come next; None: nothing takes less.
    below: Fit | None = None


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
    #: The folder that weights of the base in 4 bits are kept in between attempts; None: nowhere.
    kept: str | None = None
    #: The file that says, while it trains, on which rung.
    rung_file: str | None = None
    #: The rung that it was on when the system killed the process before this one for lack of memory.
    killed_on: Rung | None = None
