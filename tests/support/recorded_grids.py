"""Grids of recorded trainings, replayed as a sweep would have trained them: in an order of arrival, on some workers."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sdk.schemas.watch_fields import default_interval

#: Of each recorded training; it looks at its held-out rows at each tenth of the steps.
STEPS, BATCH, HELD_OUT, TENTHS = 60, 8, 48, 10
#: How near to the best a winner is as good, and on how many workers members train.
MARGIN, WORKERS = 0.01, 4
#: Losses of a rung in order of arrival, the place of the one that asks, and the rung.
Rule = Callable[[Sequence[float], int, int], bool]
#: The held-out loss at each tenth.
Curve = list[float]


@dataclass(frozen=True)
class Replay:
    """One sweep over recorded trainings."""

    #: Its row passes over those of the grid.
    share: float
    #: By how much the winner's loss is above that of the grid's best, as a share of it.
    regret: float


def replay(curves: Sequence[Curve], rungs: Sequence[float], goes_on: Rule, order: random.Random) -> Replay:
    """Train members in a random order, as many at once as there are workers, each at its own speed."""
    waiting = order.sample(range(len(curves)), len(curves))
    seen: list[list[float]] = [[] for _ in rungs]
    passes, scores = 0, []
    #: When a member comes to its next rung, which, and how long all of its steps take.
    due: list[tuple[float, int, int, float]] = []

    def begin(now: float) -> None:
        if waiting:
            whole = order.uniform(0.8, 1.25)
            heapq.heappush(due, (now + rungs[0] * whole, waiting.pop(0), 0, whole))

    for _ in range(WORKERS):
        begin(0.0)
    while due:
        now, member, rung, whole = heapq.heappop(due)
        if rung == len(rungs):
            passes += row_passes(1.0, rungs)
            scores.append(min(curves[member]))
            begin(now)
            continue
        seen[rung].append(_at(curves[member], rungs[rung]))
        if goes_on(seen[rung], len(seen[rung]) - 1, rung):
            following = rungs[rung + 1] if rung + 1 < len(rungs) else 1.0
            heapq.heappush(due, (now + (following - rungs[rung]) * whole, member, rung + 1, whole))
        else:
            passes += row_passes(rungs[rung], rungs)
            begin(now)
    best = min(map(min, curves))
    return Replay(passes / (len(curves) * row_passes(1.0, ())), min(scores) / best - 1)


def row_passes(share: float, rungs: Sequence[float]) -> int:
    """Return the rows that a member learns in a share of its steps, and those that it scores: at the looks that are due if nothing is
    asked, the one before the first step and the one at the end among them, and at its rungs.
    """
    last = round(share * STEPS)
    every = default_interval(STEPS, learnt_rows=STEPS * BATCH, held_out_rows=HELD_OUT) or STEPS
    looks = {*range(0, last + 1, every), *(round(rung * STEPS) for rung in rungs if rung <= share)}
    return last * BATCH + len(looks | {last}) * HELD_OUT


def _at(curve: Curve, share: float) -> float:
    return curve[round(share * len(curve)) - 1]
