"""What a running job reports about itself."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from sdk.schemas.wire import Open, Wire


class Progress(Wire):
    """How far a job is. Counts are in `unit`s of the current phase."""

    #: "data", "load", "train", "evaluate", "generate", "merge", "combine", "save", "check", "fit", "download", "upload"
    phase: str
    step: int | None = None
    total: int | None = None
    unit: Annotated[Literal["steps", "rows", "tensors", "bytes"], Open] = "steps"
    loss: float | None = None
    lr: float | None = None
    tokens_per_s: float | None = None
    #: Peak resident memory, or peak device memory on a GPU.
    memory_bytes: int | None = None
    eta_s: float | None = None
    message: str | None = None


class NewEvent(Wire):
    """An event as a worker reports it."""

    kind: Annotated[Literal["state", "progress", "log"], Open]
    progress: Progress | None = None
    message: Annotated[str, Field(max_length=4000)] | None = None


class Event(NewEvent):
    """An event as the registry keeps it; `seq` is the cursor; it rises, and gaps mean nothing."""

    seq: int
    at: datetime
    attempt: int
    state: str | None = None
