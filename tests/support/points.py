"""Points of made-up trainings, a sender of them, and buckets held against a plain list."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sdk.client import Client
from sdk.schemas.series import Point, SentPoints, Series, StoredPoints
from sdk.schemas.work import Assignment


def points_of(steps: range, *, names: Sequence[str] = ("loss",), seed: int = 0) -> list[Point]:
    """A value of each series at each step, none like another."""
    return [
        Point(step=step, values={name: ((step * 7919 + seed * 31 + at) % 1000) / 8 for at, name in enumerate(names)})
        for step in steps
    ]


@dataclass
class Sender:
    """Sends the points of one attempt, as a worker does."""

    client: Client
    held: Assignment
    serial: int = field(default=0)

    def send(self, after: int, points: Sequence[Point], *, serial: int | None = None) -> int:
        """Send a chunk; return until which step everything is stored."""
        self.serial = self.serial + 1 if serial is None else serial
        body = SentPoints(attempt=self.held.attempt, serial=self.serial, after=after, points=list(points))
        return self.client.call("POST", f"/jobs/{self.held.job}/series", StoredPoints, body=body).last

    def send_all(self, points: Sequence[Point], after: int = -1) -> None:
        """Send points in chunks, and whatever the registry lacks again."""
        last = points[-1].step if points else after
        while True:
            some = [point for point in points if point.step > after][:2000]
            after = self.send(after, some)
            if after >= last:
                return


def float32(value: float) -> float:
    """The nearest float32."""
    found: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return found


def faults(series: Series, points: Sequence[Point]) -> list[str]:
    """Where buckets are not those of points: each value must be in exactly one."""
    by_name: dict[str, dict[int, float]] = {}
    for point in points:
        for name, value in point.values.items():
            by_name.setdefault(name, {})[point.step] = value
    found = [f"series {sorted(series.series)}, not {sorted(by_name)}"] if set(series.series) != set(by_name) else []
    for name in by_name.keys() & series.series.keys():
        found += [f"{name}: {each}" for each in _faults(series, name, by_name[name])]
    return found


def _faults(series: Series, name: str, values: Mapping[int, float]) -> list[str]:
    buckets, found = series.series[name], []
    if sum(buckets.count) != len(values):
        found.append(f"{sum(buckets.count)} values, not {len(values)}")
    spans = list(zip(buckets.first, buckets.step, strict=True))
    if any(later[0] <= earlier[1] for earlier, later in itertools.pairwise(spans)):
        found.append("buckets overlap")
    for at, (first, last) in enumerate(spans):
        inside = [values[step] for step in range(first, last + 1) if step in values]
        shown = (buckets.count[at], *(float32(getattr(buckets, what)[at]) for what in ("min", "max", "last")))
        if not inside or shown != (len(inside), float32(min(inside)), float32(max(inside)), float32(inside[-1])):
            found.append(f"steps {first} to {last} have {shown}")
        elif abs(buckets.mean[at] - sum(inside) / len(inside)) > 1e-6 * (1 + max(map(abs, inside))):
            found.append(f"steps {first} to {last} have the mean {buckets.mean[at]}")
    return found
