"""The numbers that monitoring reads: they are about the whole registry, whichever server process is asked."""

from __future__ import annotations

import json
from collections import Counter as Tally
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.db.counters import BUCKETS_S, Counter, count
from registry.db.database import Database
from registry.db.types import db_now
from registry.http.refusals import REFUSAL_KINDS
from registry.jobs.models import Job
from registry.jobs.reconcile import sweepers
from registry.jobs.workers import QUEUES, Workers
from registry.monitoring.process_families import families_of
from registry.monitoring.processes import reported
from registry.principal import SYSTEM
from registry.usage.models import Usage
from sdk.schemas.job_requests import JOB_KINDS
from sdk.schemas.jobs import JobState

if TYPE_CHECKING:
    from prometheus_client import Metric
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

#: The values of `WorkerView.state`.
_WORKER_STATES = ("busy", "idle", "draining", "silent")


_Key = tuple[str, ...]
F = TypeVar("F", "GaugeMetricFamily", "CounterMetricFamily")


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
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        def family(kind: type[F], name: str, said: str, labels: Sequence[str], values: Mapping[Any, float]) -> F:
            found = kind(name, said, labels=labels)
            for key, value in values.items():
                found.add_metric(key, value)
            return found

        gauge, total = partial(family, GaugeMetricFamily), partial(family, CounterMetricFamily)
        with self._db.read() as session:
            queued, running = _queued(session), _running(session)
            leaders, counted = sweepers(session), _counted(session)
            processes, used = reported(session), _used(session)
        waiting = {(queue, kind): queued.get((queue, kind), (0, 0.0))[0] for queue in QUEUES for kind in JOB_KINDS}
        yield gauge("adapterctl_jobs_queued", "Jobs waiting for a worker.", ["queue", "kind"], waiting)
        held = {(queue,): running.get(queue, 0) for queue in QUEUES}
        yield gauge("adapterctl_jobs_running", "Jobs held by a worker.", ["queue"], held)
        ages = {
            (queue,): max((age for (of, _), (_, age) in queued.items() if of == queue), default=0.0) for queue in QUEUES
        }
        said = "Age of the job that has waited longest; 0 for none."
        yield gauge("adapterctl_jobs_oldest_queued_seconds", said, ["queue"], ages)
        said = "When a process became the reconciler's leader, as Unix time; `name` is its host and process id."
        since = {(name,): since_s for name, since_s, _ in leaders}
        yield gauge("adapterctl_reconciler_leader_since_seconds", said, ["name"], since)
        swept = {(name,): swept_at_s for name, _, swept_at_s in leaders}
        yield gauge("adapterctl_reconciler_swept_at_seconds", "When it last swept, as Unix time.", ["name"], swept)
        begun = counted("attempts", "kind")
        attempts = {(kind,): begun.get((kind,), 0.0) for kind in JOB_KINDS}
        yield total("adapterctl_job_attempts", "Attempts that workers began.", ["kind"], attempts)
        said = "Jobs that ended; `reason` says why a job has no result."
        ended = ("kind", "state", "reason")
        yield total("adapterctl_jobs_finished", said, ended, counted("finished", *ended))
        losses = {(): 0.0} | counted("lease_losses")
        yield total("adapterctl_lease_losses", "Attempts that ended because their worker fell silent.", [], losses)
        said = "Requests and connections that were refused before reaching a route, or because a role was missing."
        known = counted("refused", "why")
        refused = {(why,): known.get((why,), 0.0) for why in REFUSAL_KINDS}
        yield total("adapterctl_requests_refused", said, ["why"], refused)
        said = "How long successful jobs took, from the claim of their last attempt."
        durations = HistogramMetricFamily("adapterctl_job_duration_seconds", said, labels=["kind"])
        within = counted("duration_bucket", "kind", "le")
        for (kind,), total_s in counted("duration_sum", "kind").items():
            ends = (*map(str, BUCKETS_S), "+Inf")
            sums = accumulate(within.get((kind, end), 0.0) for end in ends)
            durations.add_metric([kind], list(zip(ends, sums, strict=True)), total_s)
        yield durations
        states = Tally(worker.state for worker in self._workers.list(who=SYSTEM))
        seen = {(state,): states[state] for state in _WORKER_STATES}
        yield gauge("adapterctl_workers", "Workers heard from in the last week.", ["state"], seen)
        said = "Bytes that namespaces are charged for; what two of them refer to counts for both."
        yield gauge("adapterctl_storage_used_bytes", said, ["what"], used)
        yield from families_of(processes)


def _used(session: Session) -> dict[_Key, int]:
    """By what they are, the bytes of all namespaces together."""
    columns = [column for column in Usage.__table__.columns if column.name.endswith("_bytes")]
    sums = session.execute(select(*(func.coalesce(func.sum(column), 0) for column in columns))).one()
    return {(column.name.removesuffix("_bytes"),): int(value) for column, value in zip(columns, sums, strict=True)}


def _queued(session: Session) -> dict[tuple[str, str], tuple[int, float]]:
    """By queue and kind, how many jobs wait, and for how many seconds the oldest one has."""
    columns = (Job.queue, Job.kind, func.count(), func.min(Job.created_at))
    waiting = select(*columns).where(Job.state == JobState.QUEUED).group_by(Job.queue, Job.kind)
    now = db_now(session)
    return {
        (queue, kind): (number, max(0.0, (now - oldest).total_seconds()))
        for queue, kind, number, oldest in session.execute(waiting)
    }


def _running(session: Session) -> dict[str, int]:
    running = select(Job.queue, func.count()).where(Job.state == JobState.RUNNING).group_by(Job.queue)
    return dict(session.execute(running).all())


def _counted(session: Session) -> Callable[..., dict[_Key, float]]:
    """Return what gives the values of a counter, by the values of these of its labels."""
    rows = session.scalars(select(Counter).order_by(Counter.name, Counter.labels)).all()
    known = [(row.name, json.loads(row.labels), row.value) for row in rows]

    def counted(name: str, *labels: str) -> dict[_Key, float]:
        return {tuple(said[label] for label in labels): value for of, said, value in known if of == name}

    return counted
