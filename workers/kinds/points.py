"""Points of a training on their way to the registry, sent in batches by a thread of their own while the training goes on.

All points of the attempt are held, so that whatever the registry lacks can be sent again. A registry that is slow or
away delays nothing, and ends no training.
"""

from __future__ import annotations

import logging
import math
import time
from array import array
from bisect import bisect_right

from sdk.api import work
from sdk.client import Client
from sdk.errors import AdapterctlError, QuotaExceeded, StaleAttempt, Unavailable
from sdk.schemas.series import MOST_POINTS, Point, PointChunk, SentPoints
from workers.background import Background
from workers.kinds.attempt import Attempt
from workers.lease.heartbeat import apart

#: The pause between two batches, and how often a request must fit into it: sending takes little of the processor.
_EVERY_S, _SHARE = 1.0, 100
_LONGEST_PAUSE_S = 10.0
#: The pause after a request that failed, and after one that was refused for lack of room.
_AGAIN_S, _NO_ROOM_S = 5.0, 60.0
_REQUEST_S = 10.0
#: The longest pause while a caller waits for the end.
_HURRIED_S = 0.2
#: Numbers of one request: a body may have only so many.
_MOST_NUMBERS = 20_000
#: How long to wait for the end of a request that is no longer needed.
_LEAVE_S = 5.0
#: The end of a training waits this long at most for its last points: no longer than a registry takes to start again.
LAST_POINTS_S = 30.0

_log = logging.getLogger(__name__)


class HeldPoints:
    """The points of an attempt, column by column: a training may have a million steps."""

    def __init__(self) -> None:
        self._steps = array("q")
        #: By series; NaN where it has no value.
        self._columns: dict[str, array[float]] = {}

    @property
    def last(self) -> int:
        """The newest step; -1: there is none."""
        return self._steps[-1] if self._steps else -1

    def apply(self, chunk: PointChunk) -> None:
        """Replace all that follows the step after which a chunk comes."""
        kept = bisect_right(self._steps, chunk.after)
        del self._steps[kept:]
        for column in self._columns.values():
            del column[kept:]
        for point in chunk.points:
            self._steps.append(point.step)
            for name in point.values.keys() - self._columns.keys():
                self._columns[name] = array("d", [math.nan]) * (len(self._steps) - 1)
            for name, column in self._columns.items():
                column.append(point.values.get(name, math.nan))

    def count_after(self, step: int) -> int:
        """How many steps there are after one."""
        return len(self._steps) - bisect_right(self._steps, step)

    def after(self, step: int) -> list[Point]:
        """The first points after a step, as many as one request may have."""
        begin = bisect_right(self._steps, step)
        end = begin + max(1, min(MOST_POINTS, _MOST_NUMBERS // max(1, len(self._columns))))
        return [
            Point(
                step=self._steps[row],
                values={name: column[row] for name, column in self._columns.items() if not math.isnan(column[row])},
            )
            for row in range(begin, min(end, len(self._steps)))
        ]


class PointSender:
    """Sends the points of one attempt at a training, from `with` to its end."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        #: Its guard is that of the attributes below.
        self._background = Background(self._work, name="points")
        self._held = HeldPoints()
        #: The step after which the registry may lack something; None: it has everything, or it is being sent.
        self._lacks_after: int | None = None
        self._is_sending = False
        self._serial = 0
        #: Whether a caller waits for the end.
        self._hurries = False
        self._was_full = False

    def __enter__(self) -> PointSender:
        self._background.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._background.end(_LEAVE_S)

    def measured(self, chunk: PointChunk) -> None:
        """Take points from the child."""
        with self._background.changing():
            self._held.apply(chunk)
            self._lack_after(chunk.after)

    def after(self, step: int) -> list[Point]:
        """The first points after a step, as many as one request may have."""
        with self._background.changed:
            return self._held.after(step)

    def count_after(self, step: int) -> int:
        """How many steps there are after one."""
        with self._background.changed:
            return self._held.count_after(step)

    def finish(self, within_s: float) -> None:
        """Wait until all are sent, but no longer than `within_s`."""
        with self._background.changing():
            self._hurries = True
            done = self._background.changed.wait_for(
                lambda: self._is_over or self._was_full or not self._has_more, max(0.0, within_s)
            )
            self._hurries = False
        if not done:
            self._tell("the last points of the series could not be sent in time")

    @property
    def _is_over(self) -> bool:
        return self._background.over or self._attempt.lease.lost

    @property
    def _has_more(self) -> bool:
        return self._is_sending or self._lacks_after is not None

    def _lack_after(self, step: int) -> None:
        self._lacks_after = step if self._lacks_after is None else min(step, self._lacks_after)

    def _work(self) -> None:
        with apart(self._attempt.client) as client:
            while (chunk := self._next()) is not None:
                began = time.monotonic()
                pause_s = self._try(client, chunk)
                took_s = time.monotonic() - began
                with self._background.changing():
                    self._is_sending = False
                self._pause(max(pause_s, min(_LONGEST_PAUSE_S, _SHARE * took_s)))

    def _next(self) -> SentPoints | None:
        """Take up what is lacking as soon as there is something; None at the end."""
        with self._background.changed:
            self._background.changed.wait_for(lambda: self._lacks_after is not None or self._is_over)
            if self._is_over or self._lacks_after is None:
                return None
            after, self._lacks_after, self._is_sending = self._lacks_after, None, True
            self._serial += 1
            points = self._held.after(after)
        return SentPoints(attempt=self._attempt.assignment.attempt, serial=self._serial, after=after, points=points)

    def _pause(self, seconds: float) -> None:
        """Wait before the next batch; a caller that waits for the end ends the pause."""
        with self._background.changed:
            hurries = self._hurries
            self._background.changed.wait_for(
                lambda: self._is_over or self._hurries, seconds if not hurries else _HURRIED_S
            )

    def _try(self, client: Client, chunk: SentPoints) -> float:
        """Send a chunk; return how long to wait before the next."""
        try:
            stored = work.send_points(client.transport, self._attempt.assignment.job, chunk, timeout_s=_REQUEST_S)
        except StaleAttempt:
            self._attempt.lease.lose()
        except Unavailable as error:
            _log.info("points after step %s could not be sent yet and will be tried again: %s", chunk.after, error)
            self._put_back(chunk.after)
            return _AGAIN_S
        except QuotaExceeded as error:
            if not self._was_full:
                self._was_full = True
                self._tell(f"the points of the series are not stored; the training continues without them: {error}")
            self._put_back(chunk.after)
            return _NO_ROOM_S
        except (AdapterctlError, OSError, ValueError) as error:
            self._tell(f"the series can't be sent ({type(error).__name__}): {error}")
            self._background.stop()
        else:
            with self._background.changed:
                self._was_full = False
                if self._held.last > stored.last:
                    self._lack_after(stored.last)
        return _EVERY_S

    def _put_back(self, after: int) -> None:
        with self._background.changed:
            self._lack_after(after)

    def _tell(self, message: str) -> None:
        _log.info(message)
        self._attempt.lease.log(message)
