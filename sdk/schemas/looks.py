"""What a training saw when it looked at its held-out rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, FiniteFloat

from sdk.schemas.wire import IF_ANY, IF_SET, Wire


class HigherLoss(Wire):
    """How much higher the loss of rows is than it was at an earlier look, paired by row, with its interval of 95 %."""

    #: The earlier look's step.
    step: int
    mean: FiniteFloat
    low: FiniteFloat
    high: FiniteFloat


#: Longer answers are cut.
MOST_SAMPLE_CHARACTERS = 1_000


class SampleText(Wire):
    """What the adapter of a look wrote to the prompt of a row."""

    #: Counts from 1, in the file of held-out rows.
    row: Annotated[int, Field(ge=1)]
    text: Annotated[str, Field(max_length=MOST_SAMPLE_CHARACTERS)]


class LookRecord(Wire):
    """One look at held-out rows during a training."""

    step: Annotated[int, Field(ge=0)]
    #: How many rows were looked at.
    rows: Annotated[int, Field(ge=1)]
    #: Scores of held-out rows by name, of which "loss" is the one that is minimised.
    scores: dict[str, FiniteFloat]
    seconds: Annotated[float, Field(ge=0)]
    #: Against the look with the lowest loss before it, which may have been before the first step; None: it is the first, or
    #: there are too few rows to tell.
    worse: Annotated[HigherLoss | None, IF_SET] = None
    samples: Annotated[list[SampleText], IF_ANY] = []
    #: Whether it came only because a sweep asks for the loss there: nothing is chosen by it.
    for_sweep: Annotated[bool, IF_ANY] = False


#: How many looks a job's result has.
MOST_LOOKS = 100


def some_looks(looks: Sequence[LookRecord], best_step: int | None) -> list[LookRecord]:
    """Return at most `MOST_LOOKS` looks, evenly, among them the first, the last and the best one.

    >>> looks = [LookRecord(step=step, rows=9, scores={"loss": 1.0}, seconds=1.0) for step in range(1000)]
    >>> some = [look.step for look in some_looks(looks, 777)]
    >>> len(some) <= MOST_LOOKS, some[:3], some[-1], 777 in some
    (True, [0, 11, 22], 999, True)
    """
    every = -(-len(looks) // (MOST_LOOKS - 2)) or 1
    last = len(looks) - 1
    return [look for at, look in enumerate(looks) if at % every == 0 or at == last or look.step == best_step]
