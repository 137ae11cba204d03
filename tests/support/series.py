"""Series of trainings from points."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence

from sdk.schemas.series import Buckets, Point, Series


def buckets_of(points: Iterable[tuple[int, float]]) -> Buckets:
    """A series in which each step is a bucket."""
    steps, values = zip(*((step, float(value)) for step, value in points), strict=True)
    columns = {name: list(values) for name in ("min", "max", "mean", "last")}
    return Buckets(first=list(steps), step=list(steps), count=[1] * len(steps), **columns)


def series_of(job: str | None = "3f1c2a9b7d20", **named: Sequence[tuple[int, float]]) -> Series:
    """Series by name, each of its points."""
    last = max((step for points in named.values() for step, _ in points), default=-1)
    return Series(job=job, last_step=last, series={name: buckets_of(points) for name, points in named.items()})


def series_of_points(points: Sequence[Point]) -> Series:
    """The series of what a training measured."""
    names = dict.fromkeys(name for point in points for name in point.values)
    return series_of(**{name: [(p.step, p.values[name]) for p in points if name in p.values] for name in names})


def usual(steps: int, *, seed: int = 1, looks: int = 5, spike: int | None = None) -> Series:
    """What a training measures that goes well, with a loss of 7.5 at the step `spike`."""
    noise = random.Random(seed)
    loss = [(at, 1.2 + 2.5 * math.exp(-6 * at / steps) + noise.gauss(0, 0.1)) for at in range(1, steps + 1)]
    if spike is not None:
        loss[spike - 1] = (spike, 7.5)
    rate = [(at, 1e-4 * (1 + math.cos(math.pi * at / steps))) for at in range(1, steps + 1)]
    norm = [(at, math.exp(noise.gauss(0, 0.3))) for at in range(1, steps + 1)]
    held_out = [(round(at * steps / looks), 1.4 + 2.3 * math.exp(-at)) for at in range(looks + 1)]
    return series_of(loss=loss, lr=rate, grad_norm=norm, eval_loss=held_out)
