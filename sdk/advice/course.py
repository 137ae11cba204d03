"""The numbers of a training as rules read them: one array for each series, and what its looks found.

>>> points = [Point(step=step, values={"loss": 3.0 / step}) for step in range(1, 41)]
>>> course = Course.of(TrainingRecord(), points, [])
>>> course.steps, round(course.level(4), 3), round(course.level(-4), 3)
(40, 1.562, 0.078)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdk.schemas.looks import LookRecord
from sdk.schemas.series import Point
from sdk.schemas.version_records import TrainingRecord

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Course:
    """What a training measured, and what it was asked for."""

    record: TrainingRecord
    #: (steps,) the loss and the norm of the gradients at each step; NaN where it is not known.
    losses: Floats
    norms: Floats
    #: In rising order of steps.
    looks: Sequence[LookRecord]

    @classmethod
    def of(cls, record: TrainingRecord, points: Sequence[Point], looks: Sequence[LookRecord]) -> Course:
        """Return the course of points in rising order of steps; those before the first step are left out."""
        import numpy as np

        steps = [point for point in points if point.step > 0]
        losses, norms = (
            np.array([point.values.get(name, math.nan) for point in steps], dtype=np.float64)
            for name in ("loss", "grad_norm")
        )
        return cls(record, losses, norms, [look for look in looks if math.isfinite(look.scores.get("loss", math.nan))])

    @property
    def steps(self) -> int:
        """How many steps were taken."""
        return len(self.losses)

    def level(self, steps: int) -> float:
        """Return the mean loss of so many first steps, or of so many last ones if it is negative."""
        some = self.losses[:steps] if steps > 0 else self.losses[steps:]
        return float(some[some == some].mean()) if bool((some == some).any()) else math.nan
