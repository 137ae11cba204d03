"""The numbers of a training as rules read them: its losses as an array, and what its looks found.

>>> points = [Point(step=step, values={"loss": 3.0 / step}) for step in range(1, 41)]
>>> course = Course.of(TrainingRecord(), points, [])
>>> course.steps, round(course.end().mean, 3), course.lowest().step
(40, 0.08, 38)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from sdk.advice.broken_rows import RowRun
from sdk.schemas.looks import HigherLoss, LookRecord
from sdk.schemas.series import Point
from sdk.schemas.version_records import TrainingRecord

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

#: The share of the steps whose mean loss is the level of a training at a time, and the fewest steps.
_WINDOW, _LEAST_WINDOW = 0.125, 6
#: By how much, as a share of the best look's and of the first one's loss, a later one must be higher to count.
_RISE_OF_BEST, _RISE_OF_FIRST = 0.03, 0.005


#: Steps on either side that a spike stands out from, how far it does in units of the usual distance, and at least as a share of
#: their loss and of the loss at the beginning.
_AROUND, _OUTLYING, _SPIKE_OF_AROUND, _SPIKE_OF_FIRST = 7, 8.0, 0.2, 0.1
#: The share of the steps, from the first on, in which the loss falls too fast for that.
_FALLING = 0.2


class Spike(NamedTuple):
    """A step whose loss stands out: its number, its loss, and the median of the losses around it."""

    step: int
    loss: float
    around: float


class Level(NamedTuple):
    """The mean loss of some steps, its standard error, and the step in their middle."""

    mean: float
    error: float
    step: int


@dataclass(frozen=True)
class Course:
    """What a training measured, and what it was asked for."""

    record: TrainingRecord
    #: (steps,) the loss at each step.
    losses: Floats
    #: In rising order of steps.
    looks: Sequence[LookRecord]
    #: The number of labels of a classification.
    labels: int = 0
    #: The largest ‖ΔW‖/‖W‖ of its modules, if that is known.
    update: float | None = None
    #: Rows that follow each other and are unlike the others, if there are any.
    run: RowRun | None = None

    @classmethod
    def of(
        cls,
        record: TrainingRecord,
        points: Sequence[Point],
        looks: Sequence[LookRecord],
        *,
        labels: int = 0,
        update: float | None = None,
        run: RowRun | None = None,
    ) -> Course:
        """Return the course of points in rising order of steps; those before the first step are left out."""
        losses = [point.values["loss"] for point in points if point.step > 0 and "loss" in point.values]
        return replace(cls.so_far(record, losses, looks, labels=labels), update=update, run=run)

    @classmethod
    def so_far(
        cls,
        record: TrainingRecord,
        losses: Sequence[float],
        looks: Sequence[LookRecord],
        *,
        labels: int = 0,
    ) -> Course:
        """Return the course of a training whose first steps had these losses; looks that only a sweep asked for are left out."""
        import numpy as np

        seen = [look for look in looks if "loss" in look.scores and not look.for_sweep]
        return cls(record, np.array(losses, dtype=np.float64), seen, labels)

    @property
    def steps(self) -> int:
        """How many steps were taken."""
        return len(self.losses)

    @property
    def total(self) -> int:
        """How many steps it has, or would have if nothing ended it earlier."""
        return max(self.steps, self.record.total_steps or 0)

    def until(self, step: int) -> Course:
        """Return the course as it was after a step."""
        looks = [look for look in self.looks if look.step <= step]
        return replace(self, losses=self.losses[: max(0, step)], looks=looks, update=None, run=None)

    @property
    def window(self) -> int:
        """Over how many steps a level is a mean."""
        return min(self.steps, max(_LEAST_WINDOW, int(_WINDOW * self.steps)))

    def level(self, first: int) -> Level:
        """Return the level of a window that begins at the step with this index."""
        some = self.losses[first : first + self.window]
        spread = float(some.std(ddof=1)) if len(some) > 1 else math.inf
        return Level(float(some.mean()), spread / math.sqrt(len(some)), first + 1 + len(some) // 2)

    def end(self) -> Level:
        """Return the level of the last steps."""
        return self.level(self.steps - self.window)

    def lowest(self) -> Level:
        """Return the lowest level of windows that follow each other, the last one among them."""
        starts = range(self.steps - self.window, -1, -self.window)
        return min((self.level(start) for start in starts), key=lambda level: level.mean)

    def around(self, step: int) -> Level:
        """Return the level of a window around a step."""
        return self.level(max(0, min(step - self.window // 2, self.steps - self.window)))

    def fell_since(self, step: int) -> bool:
        """Whether the training's loss is lower at its end than around a step."""
        return self.end().mean < self.around(step).mean

    def held_out_rise(self) -> HigherLoss | None:
        """Return by how much the last look is worse than the best one before it; None if that is not shown by paired rows, or
        is so little that it doesn't matter.
        """
        now = self.looks[-1] if self.looks else None
        if now is None or now.worse is None or now.worse.low <= 0:
            return None
        best, first = now.scores["loss"] - now.worse.mean, self.looks[0].scores["loss"]
        return now.worse if now.worse.mean > max(_RISE_OF_BEST * best, _RISE_OF_FIRST * first) else None

    def best_look(self) -> LookRecord | None:
        """Return the first look with the lowest loss."""
        return min(self.looks, key=lambda look: look.scores["loss"], default=None)

    def held_out(self) -> float | None:
        """Return the held-out loss at the last look, if there are looks."""
        return self.looks[-1].scores["loss"] if self.looks else None

    def fall(self) -> float | None:
        """Return which share of its loss the training lost, by the best of its looks if there are any; None if it lost some by
        other than chance, in its steps or by paired rows.
        """
        first, end = self.level(0), self.end()
        fell = first.mean - end.mean > 2 * math.hypot(first.error, end.error)
        if fell or any(look.worse is not None and look.worse.high < 0 for look in self.looks):
            return None
        losses = [look.scores["loss"] for look in self.looks] or [first.mean, end.mean]
        return 1 - min(losses) / losses[0] if losses[0] > 0 else None

    def chance(self) -> float | None:
        """Return the loss of guesses, in nats, where the objective says it: of a pair, or of so many labels."""
        if self.record.objective == "classify" and self.labels > 1:
            return math.log(self.labels)
        return math.log(2) if self.record.objective == "dpo" else None

    def spikes(self) -> list[Spike]:
        """Return the steps whose loss stands out from those around them."""
        import numpy as np

        begin = int(_FALLING * self.total)
        some = self.losses[begin:]
        if len(some) <= _AROUND:
            return []
        padded = np.pad(some, _AROUND, mode="reflect")
        around = np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * _AROUND + 1), axis=1)
        above = some - around
        usual = 1.4826 * float(np.median(np.abs(above)))
        least = np.maximum(
            _OUTLYING * usual, np.maximum(_SPIKE_OF_AROUND * around, _SPIKE_OF_FIRST * self.level(0).mean)
        )
        return [
            Spike(begin + at + 1, float(some[at]), float(around[at])) for at in np.flatnonzero(above > least).tolist()
        ]
