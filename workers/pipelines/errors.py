"""What goes wrong in a pipeline, as a reason that programs read and one sentence that people read.

>>> from sdk.schemas.failures import FailureReason
>>> str(PipelineError(FailureReason.DATA, "No row has a completion; add a `completion` column and submit again.").reason)
'data'
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

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


def first_line(error: BaseException) -> str:
    """Return the first line of an error, at most 200 characters; its type if it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


@contextmanager
def named(reason: FailureReason, message: str, *errors: type[Exception]) -> Iterator[None]:
    """Raise PipelineError for these errors of a block; in its message `{error}` stands for what one says, `{first}` for
    its first line.

    >>> with named(FailureReason.BASE, "The base can't be read ({error}); check its folder.", ValueError):
    ...     int("x")
    Traceback (most recent call last):
    workers.pipelines.errors.PipelineError: The base can't be read (invalid literal for int() with base 10: 'x'); check its folder.
    """
    try:
        yield
    except errors as error:
        texts = {"{error}": str(error), "{first}": first_line(error)}
        said = re.sub(r"\{error\}|\{first\}", lambda found: texts[found[0]], message)
        raise PipelineError(reason, said) from error
