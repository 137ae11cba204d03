"""Why an attempt has to stop, and how long its processes may take to do so."""

from __future__ import annotations

import time
from enum import StrEnum

from workers.lease.heartbeat import Lease
from workers.node.shutdown import Shutdown

#: The part of a worker's grace that is reserved for sending a checkpoint and giving the job back once the child is gone.
_RESERVE = 1 / 3


class StopReason(StrEnum):
    """Reasons to stop, the weightiest first."""

    #: Another attempt holds the job, or may: nothing from this one may be handed in.
    LOST = "lost"
    #: Somebody cancelled the job.
    CANCELLED = "cancelled"
    #: It has run for as long as it may.
    TIMEOUT = "timeout"
    #: The worker shuts down, and gives the job back.
    DRAINING = "draining"


class Stopped(Exception):  # noqa: N818 - it reads as what happened
    """The attempt stops here."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class StopSignal:
    """Says whether an attempt must stop: it checks everything that may end it. Called from any thread."""

    def __init__(self, lease: Lease, shutdown: Shutdown, *, grace_s: float, timeout_s: float | None) -> None:
        self._lease = lease
        self._shutdown = shutdown
        self._grace_s = grace_s
        self._ends_at = None if timeout_s is None else lease.claimed_at + timeout_s

    def reason(self) -> StopReason | None:
        """Return why the attempt must stop, or None."""
        if self._lease.lost:
            return StopReason.LOST
        if self._lease.cancelled:
            return StopReason.CANCELLED
        if self._ends_at is not None and time.monotonic() >= self._ends_at:
            return StopReason.TIMEOUT
        return StopReason.DRAINING if self._shutdown.asked else None

    def may_finish(self, asked_s: float) -> bool:
        """Whether a child that was told to stop `asked_s` seconds ago may go on to do so in order."""
        if self._lease.lost or self._shutdown.at_once or asked_s >= self._grace_s:
            return False
        return not self._shutdown.asked or self._shutdown.left_s > self._shutdown.grace_s * _RESERVE

    def remaining_s(self, usual_s: float) -> float:
        """How long something may still be waited for: `usual_s`, or what is left to a worker that shuts down."""
        if self._lease.lost:
            return 0.0
        return min(usual_s, self._shutdown.left_s) if self._shutdown.asked else usual_s

    def check(self) -> None:
        """Raise Stopped if the attempt must stop: while it is prepared."""
        reason = self.reason()
        if reason is not None:
            raise Stopped(reason)

    def check_finishing(self) -> None:
        """Raise Stopped if even a finished result may no longer be handed in."""
        reason = self.reason()
        if reason in (StopReason.LOST, StopReason.CANCELLED) or (self._shutdown.asked and self._shutdown.left_s <= 0):
            raise Stopped(reason or StopReason.DRAINING)
