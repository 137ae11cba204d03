"""The points of one attempt at a training on their way to everybody who wants them: the registry, and the trackers."""

from __future__ import annotations

import time
from types import TracebackType

from sdk.errors import StaleAttempt
from sdk.schemas.job_requests import TrainingRequest
from sdk.schemas.series import PointChunk
from sdk.schemas.wire import JsonScalar
from workers.kinds.attempt import Attempt
from workers.kinds.points import LAST_POINTS_S, PointSender
from workers.lease.stop_signal import Stopped, StopReason
from workers.trackers.forwarding import END_S, Forwarder
from workers.trackers.tracker import RunEnd, Training

#: How long a version waits for trackers that have not everything yet, in seconds.
_SOON_S = 1.0
#: How a run ends with its attempt; None: another attempt goes on with it.
_ENDS: dict[StopReason, RunEnd | None] = {StopReason.CANCELLED: "killed", StopReason.DRAINING: None}


class Reports:
    """Sends the points of an attempt to the registry and forwards them to trackers, from `with` to its end."""

    def __init__(self, attempt: Attempt, request: TrainingRequest) -> None:
        self._attempt = attempt
        self._points = PointSender(attempt)
        #: Until when runs have time to end as finished, by the monotonic clock; None: the training has not.
        self._until: float | None = None
        training = training_of(attempt, request)
        runs = attempt.assignment.runs
        self._forwarders = [
            Forwarder(
                name,
                training,
                self._points,
                run=runs.get(name),
                tell=attempt.lease.log,
                note=attempt.lease.note_run,
            )
            for name in request.spec.trackers
        ]

    def __enter__(self) -> Reports:
        self._points.__enter__()
        for forwarder in self._forwarders:
            forwarder.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None and self._until is not None:
            for forwarder in self._forwarders:
                forwarder.settle(self._until)
        elif error is not None and not self._is_lost(error):
            self._end_otherwise(_end_of(error))
        for forwarder in self._forwarders:
            forwarder.abandon()
        self._points.__exit__(kind, error, at)

    def measured(self, chunk: PointChunk) -> None:
        """Take points from the child."""
        self._points.measured(chunk)
        for forwarder in self._forwarders:
            forwarder.measured(chunk)

    def flush(self) -> None:
        """Wait until the registry has all points, but not for long."""
        self._points.finish(self._attempt.stop_signal.remaining_s(LAST_POINTS_S))

    def finish(self) -> None:
        """Have runs end, and wait until the registry has all points: the training was done. Trackers have a moment to answer,
        and those whose run has not begun all their time, since the registry keeps its id; what they lack by then is said, and
        forwarded once the version is there.
        """
        self._until = self._end("finished")
        self.flush()
        soon = min(self._until, time.monotonic() + _SOON_S)
        for forwarder in self._forwarders:
            forwarder.settle_begin(self._until)
            forwarder.settle(soon)
            forwarder.say_left(self._until)

    def _end_otherwise(self, end: RunEnd | None) -> None:
        if self._until is None:
            until = self._end(end)
            for forwarder in self._forwarders:
                forwarder.settle(until)
                forwarder.say_left()
        elif end is not None:
            for forwarder in self._forwarders:
                forwarder.correct(end)

    def _end(self, end: RunEnd | None) -> float:
        """Have runs end; return until when they have time for that, by the monotonic clock."""
        for forwarder in self._forwarders:
            forwarder.end(end)
        return time.monotonic() + self._attempt.stop_signal.remaining_s(END_S)

    def _is_lost(self, error: BaseException) -> bool:
        """Whether another attempt has the job."""
        is_told = isinstance(error, Stopped) and error.reason is StopReason.LOST
        return is_told or isinstance(error, StaleAttempt) or self._attempt.lease.lost


def training_of(attempt: Attempt, request: TrainingRequest) -> Training:
    """Return what trackers are told about a training."""
    spec = {name: value for name, value in request.spec.recorded().items() if value is not None}
    params: dict[str, JsonScalar] = {
        **spec,
        "max_length": request.spec.max_length,
        "adapter": request.adapter,
        "base": request.base.id,
        "base_revision": request.base.revision,
        "base_fingerprint": request.base.fingerprint,
        "data": request.data_name or request.data,
        "sweep": None if request.sweep is None else request.sweep.sweep,
        "member": None if request.sweep is None else request.sweep.number,
        "job": attempt.assignment.job,
        "attempt": attempt.assignment.attempt,
    }
    shown = {name: value for name, value in params.items() if value is not None}
    return Training(job=attempt.assignment.job, adapter=request.adapter, params=shown, sweep=request.sweep)


def _end_of(error: BaseException) -> RunEnd | None:
    return _ENDS.get(error.reason, "failed") if isinstance(error, Stopped) else "failed"
