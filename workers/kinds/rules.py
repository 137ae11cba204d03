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

    #: The class of requests; its field `kind` has the kind's name.
    request: type[R]
    #: Says which part of an assignment differs from the request's pins.
    differences: Callable[[Assignment, R], Iterator[str]]
    #: Fetches the inputs, has a child carry out the order, and hands in the result. Raises AttemptFailed, Stopped,
    #: AdapterctlError.
    carry_out: Callable[[Attempt, R], None]

    @property
    def name(self) -> str:
        """The kind's name in requests."""
        return str(self.request.model_fields["kind"].default)
