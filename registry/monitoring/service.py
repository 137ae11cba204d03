"""The numbers that monitoring reads: they are about the whole registry, whichever server process is asked."""

from __future__ import annotations

import json
from collections import Counter as Tally
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.db.counters import BUCKETS_S, Counter, count
from registry.db.database import Database
from registry.db.types import db_now
from registry.http.refusals import REFUSAL_KINDS
from registry.jobs.models import Job
from registry.jobs.reconcile import sweepers
from registry.jobs.workers import QUEUES, Workers
from registry.principal import SYSTEM
from sdk.schemas.job_requests import JOB_KINDS
from sdk.schemas.jobs import JobState

if TYPE_CHECKING:
    from prometheus_client import Metric

#: The values of `WorkerView.state`.
_WORKER_STATES = ("busy", "idle", "draining", "silent")


@dataclass(frozen=True)
class _Numbers:
    """One look at the database. Only jobs that wait or run are counted there; the others are stored sums."""

    #: By (queue, kind): how many wait, and the age of the oldest in seconds.
    queued: dict[tuple[str, str], tuple[int, float]]
    #: By queue: how many run.
    running: dict[str, int]
    #: Who sweeps, since when, and when last, in seconds since 1970.
    sweepers: Sequence[tuple[str, float, float]]
    #: By counter: its labels and values.
    counters: dict[str, list[tuple[dict[str, str], float]]]


class Metrics:
    """Reads the numbers, and writes them in Prometheus' format."""

    def __init__(self, db: Database, workers: Workers) -> None:
        self._db = db
        self._workers = workers

    def exposition(self) -> bytes:
        """Every metric as it is now, in Prometheus' text format."""
        # Imported here: no other request needs it.
        from prometheus_client import CollectorRegistry, generate_latest

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry)

    def add_refusals(self, counted: Mapping[str, int]) -> None:
        """Add what a process has refused since the last time, by reason."""
        with self._db.write() as session:
            for why, number in counted.items():
                count(session, "refused", number, why=why)

    def collect(self) -> Iterator[Metric]:
        """The metrics one by one, as a collector of `prometheus_client` yields them."""
        with self._db.read() as session:
            numbers = _read(session)
        yield from _waiting_and_running(numbers)
        yield from _sweeping(numbers)
        yield from _totals(numbers.counters)
        yield _durations(numbers.counters)
        yield self._workers_by_state()

    def _workers_by_state(self) -> Metric:
        from prometheus_client.core import GaugeMetricFamily

        found = GaugeMetricFamily("adapterctl_workers", "Workers heard from in the last week.", labels=["state"])
        states = Tally(worker.state for worker in self._workers.list(who=SYSTEM))
        for state in _WORKER_STATES:
            found.add_metric([state], states[state])
        return found


def _read(session: Session) -> _Numbers:
    now = db_now(session)
    waiting = (
        select(Job.queue, Job.kind, func.count(), func.min(Job.created_at))
        .where(Job.state == JobState.QUEUED)
        .group_by(Job.queue, Job.kind)
    )
    running = select(Job.queue, func.count()).where(Job.state == JobState.RUNNING).group_by(Job.queue)
    counters: dict[str, list[tuple[dict[str, str], float]]] = {}
    for row in session.scalars(select(Counter).order_by(Counter.name, Counter.labels)):
        counters.setdefault(row.name, []).append((json.loads(row.labels), row.value))
    return _Numbers(
        queued={
            (queue, kind): (number, max(0.0, (now - oldest).total_seconds()))
            for queue, kind, number, oldest in session.execute(waiting)
        },
        running=dict(session.execute(running).all()),
        sweepers=sweepers(session),
        counters=counters,
    )


def _waiting_and_running(numbers: _Numbers) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    queued = GaugeMetricFamily("adapterctl_jobs_queued", "Jobs waiting for a worker.", labels=["queue", "kind"])
    running = GaugeMetricFamily("adapterctl_jobs_running", "Jobs held by a worker.", labels=["queue"])
    oldest = GaugeMetricFamily(
        "adapterctl_jobs_oldest_queued_seconds", "Age of the job that has waited longest; 0 for none.", labels=["queue"]
    )
    for queue in QUEUES:
        for kind in JOB_KINDS:
            queued.add_metric([queue, kind], numbers.queued.get((queue, kind), (0, 0.0))[0])
        running.add_metric([queue], numbers.running.get(queue, 0))
        ages = [age for (where, _), (_, age) in numbers.queued.items() if where == queue]
        oldest.add_metric([queue], max(ages, default=0.0))
    yield from (queued, running, oldest)


def _sweeping(numbers: _Numbers) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    leader = GaugeMetricFamily(
        "adapterctl_reconciler_leader_since_seconds",
        "When a process became the reconciler's leader, as Unix time; `name` is its host and process id.",
        labels=["name"],
    )
    swept = GaugeMetricFamily(
        "adapterctl_reconciler_swept_at_seconds", "When it last swept, as Unix time.", labels=["name"]
    )
    for name, since_s, swept_at_s in numbers.sweepers:
        leader.add_metric([name], since_s)
        swept.add_metric([name], swept_at_s)
    yield from (leader, swept)


def _totals(counters: dict[str, list[tuple[dict[str, str], float]]]) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily

    attempts = CounterMetricFamily("adapterctl_job_attempts", "Attempts that workers began.", labels=["kind"])
    begun = {labels["kind"]: value for labels, value in counters.get("attempts", [])}
    for kind in JOB_KINDS:
        attempts.add_metric([kind], begun.get(kind, 0))
    finished = CounterMetricFamily(
        "adapterctl_jobs_finished",
        "Jobs that ended; `reason` says why a job has no result.",
        labels=["kind", "state", "reason"],
    )
    for labels, value in counters.get("finished", []):
        finished.add_metric([labels["kind"], labels["state"], labels["reason"]], value)
    losses = CounterMetricFamily("adapterctl_lease_losses", "Attempts that ended because their worker fell silent.")
    losses.add_metric([], sum(value for _, value in counters.get("lease_losses", [])))
    refused = CounterMetricFamily(
        "adapterctl_requests_refused",
        "Requests and connections that were refused before reaching a route, or because a role was missing.",
        labels=["why"],
    )
    by_kind = {labels["why"]: value for labels, value in counters.get("refused", [])}
    for kind in REFUSAL_KINDS:
        refused.add_metric([kind], by_kind.get(kind, 0))
    yield from (attempts, finished, losses, refused)


def _durations(counters: dict[str, list[tuple[dict[str, str], float]]]) -> Metric:
    from prometheus_client.core import HistogramMetricFamily

    found = HistogramMetricFamily(
        "adapterctl_job_duration_seconds",
        "How long successful jobs took, from the claim of their last attempt.",
        labels=["kind"],
    )
    within = {(labels["kind"], labels["le"]): value for labels, value in counters.get("duration_bucket", [])}
    for labels, total in counters.get("duration_sum", []):
        kind, so_far, buckets = labels["kind"], 0.0, []
        for end in (*map(str, BUCKETS_S), "+Inf"):
            so_far += within.get((kind, end), 0.0)
            buckets.append((end, so_far))
        found.add_metric([kind], buckets, total)
    return found
