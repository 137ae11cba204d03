"""What goes wrong in a pipeline, as a reason that programs read and one sentence that people read.

>>> PipelineError("data", "No row has a completion; add a `completion` column and submit again.").reason
'data'
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a pipeline stopped."""

    #: The rows can't be read, or hold nothing that a loss could be taken on.
    DATA = "data"
    #: The base's folder is incomplete, or of an architecture that can't be loaded.
    BASE = "base"
    #: The target modules name nothing that the base has.
    TARGETS = "targets"
    #: The adapter's files don't fit the base, or change nothing.
    ADAPTER = "adapter"
    #: The loss or a gradient is no longer a finite number.
    DIVERGED = "diverged"
    #: A check that each training makes of itself failed: nothing was, or could be, learnt.
    UNTRAINED = "untrained"
    #: Device or main memory ran out.
    OOM = "oom"
    #: The request contradicts itself or what it refers to.
    SPEC = "spec"
    #: The checkpoint to go on from is broken, or was written by a training of something else.
    CHECKPOINT = "checkpoint"


class PipelineError(Exception):
    """A pipeline stopped for a `reason`; `message` is one sentence that ends with what to do."""

    def __init__(self, reason: Reason | str, message: str) -> None:
        super().__init__(message)
        self.reason = Reason(reason)
        self.message = message

    def __reduce__(self) -> tuple[type[PipelineError], tuple[str, str]]:
        """Both arguments travel when the error is pickled between processes."""
        return (PipelineError, (str(self.reason), self.message))
