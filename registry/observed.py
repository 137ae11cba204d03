"""What one server process has counted and timed since it started, for monitoring.

>>> observed = Observed()
>>> observed.time("example_seconds", 0.03, route="/healthz")
>>> [(each.name, each.labels, each.sum_s) for each in observed.durations()]
[('example_seconds', {'route': '/healthz'}, 0.03)]
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock

#: Upper bounds of the buckets of a duration, in seconds; what took longer is in one more.
BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

_Key = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True)
class ObservedCount:
    """How often something happened."""

    name: str
    labels: Mapping[str, str]
    value: int


@dataclass(frozen=True)
class ObservedDuration:
    """How long something took, over all the times that it happened."""

    name: str
    labels: Mapping[str, str]
    #: How many fell between each bound and the one before it; the last is of those above all bounds.
    buckets: list[int]
    sum_s: float


class Observed:
    """The numbers of one process. Whoever adds to them gives labels of few values: each combination is kept for good."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts: Counter[_Key] = Counter()
        self._buckets: dict[_Key, list[int]] = {}
        self._sums_s: dict[_Key, float] = {}

    def count(self, name: str, **labels: str) -> None:
        """Count one."""
        with self._lock:
            self._counts[name, tuple(labels.items())] += 1

    def time(self, name: str, seconds: float, **labels: str) -> None:
        """Note how long one took."""
        key = name, tuple(labels.items())
        with self._lock:
            buckets = self._buckets.setdefault(key, [0] * (len(BOUNDS_S) + 1))
            buckets[bisect_left(BOUNDS_S, seconds)] += 1
            self._sums_s[key] = self._sums_s.get(key, 0.0) + seconds

    def counts(self) -> list[ObservedCount]:
        """All that were counted."""
        with self._lock:
            return [ObservedCount(name, dict(labels), value) for (name, labels), value in self._counts.items()]

    def durations(self) -> list[ObservedDuration]:
        """All that were timed."""
        with self._lock:
            return [
                ObservedDuration(name, dict(labels), list(buckets), self._sums_s[name, labels])
                for (name, labels), buckets in self._buckets.items()
            ]


#: This process's.
OBSERVED = Observed()
