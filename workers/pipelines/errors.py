"""What goes wrong in a pipeline, as a reason that programs read and one sentence that people read.

>>> from sdk.schemas.failures import FailureReason
>>> str(PipelineError(FailureReason.DATA, "No row has a completion; add a `completion` column and submit again.").reason)
'data'
"""

from __future__ import annotations

from sdk.schemas.failures import FailureReason


class PipelineError(Exception):
    """A pipeline stopped for a `reason`; `message` is one sentence that ends with what to do."""

    def __init__(self, reason: FailureReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message

    def __reduce__(self) -> tuple[type[PipelineError], tuple[FailureReason, str]]:
        """Both arguments are kept when the error is pickled between processes."""
        return (PipelineError, (self.reason, self.message))
