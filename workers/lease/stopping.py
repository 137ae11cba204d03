"""Why an attempt has to stop, and how long what it started may take for it."""

from __future__ import annotations

import time
from enum import StrEnum

from workers.lease.heartbeat import Holder
from workers.node.shutdown import Shutdown

#: Of a worker's grace, what remains for sending a checkpoint and giving the job back once the child is gone.
_RESERVE = 1 / 3


class Why(StrEnum):
    """Reasons to stop, the weightiest first."""

    #: Another attempt holds the job, or may: nothing that this one made may reach anybody.
    LOST = "lost"
    #: Somebody cancelled the job.
    CANCELLED = "cancelled"
    #: It has run for as long as it may.
    TIMEOUT = "timeout"
    #: The worker shuts down, and gives the job back.
    DRAINING = "draining"


class Stopped(Exception):  # noqa: N818 - it reads as what happened
    """The attempt stops here."""

    def __init__(self, why: Why) -> None:
        super().__init__(why.value)
        self.why = why


class Stopping:
    """Looks at everything that may end an attempt. Asked from any thread."""

    def __init__(self, holder: Holder, shutdown: Shutdown, *, grace_s: float, timeout_s: float | None) -> None:
        self._holder = holder
        self._shutdown = shutdown
        self._grace_s = grace_s
        self._ends_at = None if timeout_s is None else holder.claimed_at + timeout_s

    def why(self) -> Why | None:
        """Say why the attempt must stop, or None."""
        if self._holder.lost:
            return Why.LOST
        if self._holder.cancelled:
            return Why.CANCELLED
        if self._ends_at is not None and time.monotonic() >= self._ends_at:
            return Why.TIMEOUT
        return Why.DRAINING if self._shutdown.asked else None

    def may_finish(self, asked_s: float) -> bool:
        """Whether a child that was told to stop `asked_s` seconds ago may go on to do so in order."""
        if self._holder.lost or self._shutdown.at_once or asked_s >= self._grace_s:
            return False
        return not self._shutdown.asked or self._shutdown.left_s > self._shutdown.grace_s * _RESERVE

    def patience_s(self, otherwise_s: float) -> float:
        """How long something may still be waited for: `otherwise_s`, or what is left to a worker that shuts down."""
        if self._holder.lost:
            return 0.0
        return min(otherwise_s, self._shutdown.left_s) if self._shutdown.asked else otherwise_s

    def check(self) -> None:
        """Raise Stopped where the attempt must stop: while it is prepared."""
        why = self.why()
        if why is not None:
            raise Stopped(why)

    def check_finishing(self) -> None:
        """Raise Stopped where even a result that is there may not be handed in any more."""
        why = self.why()
        if why in (Why.LOST, Why.CANCELLED) or (self._shutdown.asked and self._shutdown.left_s <= 0):
            raise Stopped(why or Why.DRAINING)
