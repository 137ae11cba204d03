"""What server processes have reported, as metrics of Prometheus: each number with the label `process`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from registry.monitoring.processes import ReportedProcess
from registry.observed import BOUNDS_S
from registry.pools import Occupancy

if TYPE_CHECKING:
    from prometheus_client import Metric

#: What is counted and timed, its labels, and what it is. The names are those that `OBSERVED` is given.
COUNTS = {"http_requests": (("method", "route", "status"), "Requests that were answered; 499: the client left before.")}
DURATIONS = {
    "http_request_duration_seconds": (
        ("method", "route"),
        "How long requests took until their answer was whole; a stream of events, until it began.",
    ),
    "storage_call_duration_seconds": (("outcome",), "How long calls to the S3 store took, without the bytes of blobs."),
}
_POOLS: dict[str, tuple[str, Callable[[Occupancy], int]]] = {
    "pool_running": ("What is running in a pool.", lambda pool: pool.running),
    "pool_waiting": ("What waits for a place in a pool.", lambda pool: pool.waiting),
    "pool_places": ("How many may run in a pool at once.", lambda pool: pool.places),
}


def families_of(processes: Sequence[ReportedProcess]) -> Iterator[Metric]:
    """Yield them one by one."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    for name, (about, read) in _POOLS.items():
        pools = GaugeMetricFamily(f"adapterctl_{name}", about, labels=["process", "pool"])
        for each in processes:
            for pool, occupancy in each.figures.pools.items():
                pools.add_metric([each.name, pool], read(occupancy))
        yield pools
    for name, (labels, about) in COUNTS.items():
        counts = CounterMetricFamily(f"adapterctl_{name}", about, labels=["process", *labels])
        for each in processes:
            for count in each.figures.counts:
                if count.name == name:
                    counts.add_metric([each.name, *(count.labels[label] for label in labels)], count.value)
        yield counts
    for name, (of, about) in DURATIONS.items():
        durations = HistogramMetricFamily(f"adapterctl_{name}", about, labels=["process", *of])
        for each in processes:
            for duration in each.figures.durations:
                if duration.name == name:
                    ends = (*map(str, BOUNDS_S), "+Inf")
                    buckets = list(zip(ends, accumulate(duration.buckets), strict=True))
                    durations.add_metric(
                        [each.name, *(duration.labels[label] for label in of)], buckets, duration.sum_s
                    )
        yield durations
    # Under the names that Prometheus' own clients use.
    own: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
    for each in processes:
        for number in each.figures.process:
            kind = CounterMetricFamily if number.is_total else GaugeMetricFamily
            family = own.setdefault(number.name, kind(number.name, number.about, labels=["process"]))
            family.add_metric([each.name], number.value)
    yield from own.values()
