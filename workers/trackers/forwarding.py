"""The points of one attempt on their way to one tracker, forwarded in batches by a thread of its own.

Nothing waits for a tracker but the worker, and that no longer than `END_S`, once the training is over. A library that hangs
in a call is left alone: its thread ends with it, or with the worker.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from sdk.schemas.series import Point, PointChunk
from sdk.schemas.trackers import TrackedRun, TrackerName
from workers.background import Background
from workers.secret_variables import without_secrets
from workers.trackers.known import tracker
from workers.trackers.tracker import RunEnd, Tracker, Training

#: How long a worker waits for trackers once a training is over.
END_S = 10.0
#: The pause between two batches, and how often a call must fit into it.
_EVERY_S, _SHARE = 2.0, 10
#: The pause after a call that failed, doubled with each.
_AGAIN_S, _LONGEST_PAUSE_S = 5.0, 60.0
#: The longest error that is said, in characters.
_LONGEST_ERROR = 300

_log = logging.getLogger(__name__)


class Held(Protocol):
    """All points of the attempt."""

    def after(self, step: int) -> list[Point]:
        """The first points after a step."""

    def count_after(self, step: int) -> int:
        """How many steps there are after one."""


class Forwarder:
    """Forwards points to one tracker, from `start` to its end."""

    def __init__(
        self,
        name: TrackerName,
        training: Training,
        held: Held,
        *,
        run: TrackedRun | None,
        tell: Callable[[str], None],
        note: Callable[[TrackerName, TrackedRun], None],
    ) -> None:
        self._name = name
        self._training = training
        self._held = held
        self._tell = tell
        self._note = note
        #: Its guard is that of the attributes below. It is over once nothing is tried any more.
        self._background = Background(self._work, name=f"to {name}")
        self._run = run
        #: All points up to this step were forwarded.
        self._forwarded = -1 if run is None else run.step
        #: The last step that it was told of: what comes after it replaces nothing, even if it was forwarded already.
        self._newest = self._forwarded
        #: Whether the run has begun, and that was noted.
        self._has_begun = False
        #: The step after which points were replaced while a batch was on its way.
        self._replaced_after = math.inf
        #: Whether there may be points after the last one that was forwarded.
        self._has_more = False
        self._is_ending = False
        self._end: RunEnd | None = None
        #: Whether the end was forwarded, too.
        self._done = False
        self._fault: str | None = None
        #: When the call that is not over began, by the monotonic clock.
        self._called_at: float | None = None

    def start(self) -> None:
        """Begin the run as soon as there is something to forward."""
        self._background.start()

    def measured(self, chunk: PointChunk) -> None:
        """Take notice of points that the attempt holds now."""
        if not chunk.points:
            return
        with self._background.changing():
            # What a checkpoint has was forwarded by whoever wrote it, as far as anything was; of the last step perhaps only
            # the loss, since what is scored there is reported after it.
            after = chunk.after if chunk.after >= 0 else max(-1, min(self._forwarded - 1, chunk.points[-1].step))
            if after < self._newest:
                self._forwarded = min(self._forwarded, after)
                self._replaced_after = min(self._replaced_after, after)
            self._newest = chunk.points[-1].step
            self._has_more = True

    def end(self, end: RunEnd | None) -> None:
        """Have everything forwarded at once, and the run ended; None: another attempt will go on with it."""
        with self._background.changing():
            self._is_ending, self._end = True, end

    def settle(self, until: float) -> None:
        """Wait until all is forwarded, or nothing more is tried, but no longer than until a moment of the monotonic clock."""
        self._wait(lambda: self._done, until)

    def settle_begin(self, until: float) -> None:
        """Wait likewise until the run has begun, so that whoever goes on with the job knows it."""
        self._wait(lambda: self._has_begun or self._done, until)

    def _wait(self, is_enough: Callable[[], bool], until: float) -> None:
        with self._background.changed:
            self._background.changed.wait_for(lambda: is_enough() or self._background.over, self._left_s(until))

    def _left_s(self, until: float) -> float:
        """How long it has until a moment; a call that hangs has had its time."""
        end = until if self._called_at is None else min(until, self._called_at + END_S)
        return max(0.0, end - time.monotonic())

    def say_left(self, until: float = -math.inf) -> None:
        """Say what was not forwarded so far, if anything; it may go on until a moment of the monotonic clock."""
        with self._background.changed:
            was_abandoned = self._background.over and self._fault is None
            done, forwarded, fault = self._done, self._forwarded, self._fault
            yet = " yet" if self._left_s(until) and not self._background.over else ""
        if not done and not was_abandoned:
            self._tell(self._left(forwarded, yet, fault or "it did not answer in time"))

    def abandon(self) -> None:
        """Forward nothing more: it has had its time, or another attempt does."""
        self._background.stop()

    def correct(self, end: RunEnd) -> None:
        """End a run in another way than it was ended."""
        if self._done and self._run is not None:
            thread = threading.Thread(target=self._correct, args=(self._run.run, end), daemon=True)
            thread.start()
            thread.join(END_S)

    def _left(self, forwarded: int, yet: str, why: str) -> str:
        missing, steps = self._held.count_after(forwarded), self._held.count_after(-1)
        if missing:
            return f"{missing} of {steps} steps were not forwarded to {self._name}{yet}: {why}"
        return f"all {steps} steps were forwarded to {self._name}, but not the end of the run{yet}: {why}"

    def _work(self) -> None:
        to: Tracker | None = None
        failures, first_tried_s = 0, 0.0
        with suppress(Exception):
            # Some libraries take seconds, in which the training begins; what is wrong with one is said when it is needed.
            tracker(self._name)
        while (is_last := self._wait_for_work()) is not None:
            first_tried_s, began = first_tried_s or time.time(), time.monotonic()
            try:
                to = to or self._begun()
                self._forward(to, first_tried_s)
            except Exception as error:  # noqa: BLE001 - whatever a library raises, the training goes on
                self._failed(error, is_last=is_last)
                pause_s = min(_LONGEST_PAUSE_S, _AGAIN_S * 2**failures)
                failures += 1
            else:
                failures, first_tried_s = 0, 0.0
                pause_s = max(_EVERY_S, min(_LONGEST_PAUSE_S, _SHARE * (time.monotonic() - began)))
            with self._background.changed:
                self._called_at = None
                self._background.changed.wait_for(lambda: self._is_ending or self._background.over, pause_s)
        if to is not None and not self._done:
            with suppress(Exception):
                to.end(None)

    def _wait_for_work(self) -> bool | None:
        """Wait until there is something to do; return whether it is the end, and None if there will be nothing."""
        with self._background.changed:
            self._background.changed.wait_for(lambda: self._has_more or self._is_ending or self._background.over)
            if self._run is None and not self._has_more:
                # The training ended before its first point.
                self._done = True
                self._background.changed.notify_all()
            if self._background.over or self._done:
                return None
            self._called_at = time.monotonic()
            return self._is_ending

    def _begun(self) -> Tracker:
        to = tracker(self._name)
        run = to.begin(self._training, None if self._run is None else self._run.run)
        with self._background.changed:
            if not run.continues:
                self._forwarded = -1
            self._has_more = True
            self._run = TrackedRun(run=run.id, step=self._forwarded)
            noted, is_over = self._run, self._background.over
        if not is_over:
            self._note(self._name, noted)
            self._tell(f"forwarding the series to {self._name}, run {run.id}")
        with self._background.changing():
            self._has_begun = True
        return to

    def _forward(self, to: Tracker, at_s: float) -> None:
        """Forward a batch, or if there is nothing more and it is the end, the end."""
        with self._background.changed:
            if self._background.over:
                return
            self._has_more, self._replaced_after = False, math.inf
            after = self._forwarded
        if points := self._held.after(after):
            to.log(points, at_s)
            self._acknowledge(points[-1].step)
            return
        with self._background.changed:
            if not self._is_ending or self._has_more:
                return
        to.end(self._end)
        with self._background.changing():
            self._done = True

    def _acknowledge(self, step: int) -> None:
        with self._background.changed:
            self._forwarded = int(min(step, self._replaced_after))
            self._has_more = True
            assert self._run is not None, "it has begun"
            self._run = TrackedRun(run=self._run.run, step=self._forwarded)
            noted, is_over = self._run, self._background.over
        if not is_over:
            self._note(self._name, noted)

    def _failed(self, error: Exception, *, is_last: bool) -> None:
        why = _said_of(error)
        _log.info("not forwarded to %s: %s", self._name, why)
        with self._background.changing():
            self._fault = why
            self._has_more = True
            self._background.over |= is_last

    def _correct(self, run: str, end: RunEnd) -> None:
        try:
            to = tracker(self._name)
            to.begin(self._training, run)
            to.end(end)
        except Exception as error:  # noqa: BLE001 - as above
            _log.warning("the run %s of %s has not %s: %s", run, self._name, end, _said_of(error))


def _said_of(error: Exception) -> str:
    """Return an error as a message may have it: one line, no secrets."""
    line = str(error).partition("\n")[0]
    return without_secrets(f"{type(error).__name__}: {line}")[:_LONGEST_ERROR]
