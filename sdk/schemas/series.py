"""Numbers of a training by step: as its worker sends them, and as the registry answers them.

>>> chunk = PointChunk(after=1, points=[Point(step=2, values={"loss": 2.5}), Point(step=4, values={"loss": 2.25})])
>>> chunk.applied([Point(step=1, values={"loss": 3.0}), Point(step=2, values={"loss": 2.75})])[1].values
{'loss': 2.5}
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import Field, FiniteFloat, StringConstraints, model_validator

from sdk.schemas.wire import Wire

#: What a training measures at each step: loss in what its objective says, the learning rate, the norm of the gradients before
#: they are clipped, tokens of the step without padding, seconds of the step, and the peak of memory so far.
OF_STEPS = ("loss", "lr", "grad_norm", "tokens", "seconds", "memory_bytes")
#: The scores of held-out rows at a look are named "eval_loss", "eval_accuracy" …
OF_LOOKS = "eval_"
MOST_SERIES = 32
#: The most points that are sent at once.
MOST_POINTS = 2_000
#: The most buckets of a series, and jobs, that are asked for at once.
MOST_BUCKETS, MOST_JOBS = 2_000, 100

SeriesName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_.]{0,63}$")]


def joined(keys: Iterable[str] | None) -> str | None:
    """Names of series as a request has them; None for all."""
    return None if keys is None else ",".join(keys)


class Point(Wire):
    """The numbers of one step."""

    #: Steps count from 1; 0 is before the first.
    step: Annotated[int, Field(ge=0, le=10_000_000)]
    values: Annotated[dict[SeriesName, FiniteFloat], Field(min_length=1, max_length=MOST_SERIES)]


class PointChunk(Wire):
    """What follows in a training after one of its steps: it replaces all that was known to follow."""

    #: The step after which the points come; -1: from the beginning.
    after: Annotated[int, Field(ge=-1, le=10_000_000)]
    #: In rising order of steps.
    points: list[Point]

    @model_validator(mode="after")
    def _rises(self) -> PointChunk:
        steps = [self.after, *(point.step for point in self.points)]
        if any(later <= earlier for earlier, later in itertools.pairwise(steps)):
            raise ValueError(f"the steps don't rise after step {self.after}")
        return self

    def applied(self, points: Sequence[Point]) -> list[Point]:
        """Return the points of a training after this chunk."""
        return [*(point for point in points if point.step <= self.after), *self.points]


class SentPoints(PointChunk):
    """A chunk as an attempt sends it."""

    attempt: int
    #: Counts the chunks of an attempt from 1: an older one that arrives later changes nothing.
    serial: Annotated[int, Field(ge=1)]
    points: Annotated[list[Point], Field(max_length=MOST_POINTS)]


class StoredPoints(Wire):
    """The registry's answer: up to which step it has all points. What follows must be sent again."""

    last: Annotated[int, Field(ge=-1)]


class Buckets(Wire):
    """One series in buckets of successive steps, column by column; a bucket of one step has its value four times."""

    #: The first and the last step of each.
    first: list[int]
    step: list[int]
    #: How many steps have a value in it.
    count: list[int]
    min: list[float]
    max: list[float]
    mean: list[float]
    #: The value of its last step.
    last: list[float]


class Series(Wire):
    """The series of a job, or of the training that made a version."""

    #: None: of a version whose job is unknown or was removed.
    job: str | None
    #: The newest step of any series; -1: there is none.
    last_step: int
    series: dict[str, Buckets]

    def points(self) -> list[Point]:
        """The numbers by step: each value that is stored alone, and the mean of a bucket at its last step."""
        found: dict[int, dict[str, float]] = {}
        for name, buckets in self.series.items():
            for step, mean in zip(buckets.step, buckets.mean, strict=True):
                found.setdefault(step, {})[name] = mean
        return [Point(step=step, values=found[step]) for step in sorted(found)]
