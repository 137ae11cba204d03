"""What a worker knows about a kind of job: one frozen value per kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from sdk.schemas.wire import Wire
from sdk.schemas.work import Assignment
from workers.kinds.attempt import Attempt

R = TypeVar("R", bound=Wire)


@dataclass(frozen=True)
class KindOfWork(Generic[R]):
    """One kind of job."""

    #: What is asked for; its field `kind` has the kind's name.
    request: type[R]
    #: Says which part of an assignment is not what the request was pinned to.
    differences: Callable[[Assignment, R], Iterator[str]]
    #: Fetches the inputs, has a child carry out the order, and hands in what it made. Raises AttemptFailed, Stopped,
    #: AdapterctlError.
    carry_out: Callable[[Attempt, R], None]

    @property
    def name(self) -> str:
        """What requests say for it."""
        return str(self.request.model_fields["kind"].default)
