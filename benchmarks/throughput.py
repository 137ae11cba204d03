"""Jobs that do nothing, through PostgreSQL, Valkey, a registry and two Celery workers: how many, and how soon.

    python benchmarks/throughput.py [JOBS FINISHED]

The same with FINISHED jobs in the tables; and beside Celery over the same Valkey without anything of ours.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from itertools import repeat
from pathlib import Path
from typing import Any

import bare_celery
from celery import Celery
from fleet import (
    Site,
    broker_url,
    celery_command,
    celery_process,
    postgres_server,
    site,
    small_job,
    valkey_server,
    worker,
)
from job_seeding import seed_finished
from load import Exchange, LoadError, drive, post
from servers import environment_of
from sqlalchemy import bindparam, text
from startup import ROOT, Row

from registry.db.database import Database

JOBS = 2_000
FINISHED = 1_000_000
ROUNDS = 4
WORKERS = 2
#: Connections over which a burst is submitted.
CONNECTIONS = 8
#: Jobs a second that are submitted steadily, and for how long in each round.
PER_S = 10.0
STEADY_S = 7.5

_HERE = ROOT / "benchmarks"
_LIMIT_S = 300.0
_LOOK_S = 0.1
_UNFINISHED = text("SELECT count(*) FROM jobs WHERE state IN ('queued', 'running')")
_ENDS = text(
    "SELECT state, attempt, extract(epoch FROM created_at), extract(epoch FROM finished_at) FROM jobs WHERE id IN :ids"
).bindparams(bindparam("ids", expanding=True))


@dataclass(frozen=True)
class _Flow:
    """When each job was submitted and when it was done, in seconds."""

    times: list[tuple[float, float]]

    @property
    def per_s(self) -> float:
        """Jobs a second, from the first submission to the last end."""
        return len(self.times) / (max(done for _, done in self.times) - min(sent for sent, _ in self.times))

    @property
    def latencies_ms(self) -> list[float]:
        """From submission to end."""
        return [1000 * (done - sent) for sent, done in self.times]


class _Ours:
    """A registry with its workers, and a job that can be submitted to it again and again."""

    def __init__(self, at: Site) -> None:
        self._site = at
        self._db = Database(at.database_url)
        self._count = 0
        self._body = small_job(at).model_dump(mode="json")

    def burst(self, count: int) -> _Flow:
        """Submit so many jobs as fast as they are taken."""
        return self._flow(repeat(None, count), CONNECTIONS)

    def steadily(self, seconds: float) -> _Flow:
        """Submit jobs one after another, `PER_S` of them a second."""
        return self._flow(_paced(seconds), 1)

    def _flow(self, turns: Iterator[None], connections: int) -> _Flow:
        ids: list[str] = []
        drive(self._site.server.port, (self._submission(ids) for _ in turns), connections=connections).valid()
        deadline = time.monotonic() + _LIMIT_S
        with self._db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            while connection.scalar(_UNFINISHED):
                if time.monotonic() > deadline:
                    raise LoadError("some jobs do not end; read the logs of registry and workers")
                time.sleep(_LOOK_S)
            rows = connection.execute(_ENDS, {"ids": ids}).all()
        if len(rows) != len(ids) or any((state, attempt) != ("succeeded", 1) for state, attempt, _, _ in rows):
            raise LoadError("not every job succeeded at the first attempt; read the logs of registry and workers")
        return _Flow([(float(sent), float(done)) for _, _, sent, done in rows])

    def _submission(self, ids: list[str]) -> Exchange:
        self._count += 1
        request = post("/api/v1/jobs", self._body, token=self._site.server.tokens["writer"])
        # Clients send a key with each, so that they may send it again.
        keyed = request.replace(b"\r\n", f"\r\nIdempotency-Key: bench-{self._count}\r\n".encode(), 1)
        ids.append(json.loads((yield keyed))["id"])


class _Bare:
    """Celery workers and nothing else; they write down what they have done."""

    def __init__(self, broker: str, done: Path) -> None:
        self._celery = Celery("sender", broker=broker, set_as_current=False)
        self._celery.conf.task_ignore_result = True
        self._done = done

    def burst(self, count: int) -> _Flow:
        """Send so many tasks as fast as they are taken."""
        return self._flow(repeat(None, count))

    def steadily(self, seconds: float) -> _Flow:
        """Send tasks one after another, `PER_S` of them a second."""
        return self._flow(_paced(seconds))

    def _flow(self, turns: Iterator[None]) -> _Flow:
        self._done.write_text("")
        count = 0
        for _ in turns:
            self._celery.send_task(bare_celery.NAME, args=[time.time()])
            count += 1
        deadline = time.monotonic() + _LIMIT_S
        while len(lines := self._done.read_text().splitlines()) < count:
            if time.monotonic() > deadline:
                raise LoadError("some tasks of the bare Celery do not end")
            time.sleep(_LOOK_S)
        return _Flow([(float(sent), float(done)) for sent, done in map(str.split, lines)])


def run(jobs: int = JOBS, finished: int = FINISHED, *, rounds: int = ROUNDS, steady_s: float = STEADY_S) -> list[Row]:
    """Measure an empty registry, one that holds `finished` jobs, and bare Celery in turn. Raises LoadError.

    Each round has its share of the `jobs`; the median of the rounds counts, and of latencies all of them.
    """
    with ExitStack() as stack:
        postgres = stack.enter_context(postgres_server(shared_buffers="2GB", max_wal_size="8GB"))
        valkey = stack.enter_context(valkey_server())
        measured: dict[str, Any] = {}
        for number, name in enumerate(("few", "many")):
            at = stack.enter_context(site(postgres, name, broker_url(valkey, number)))
            measured[name] = _ours(stack, at)
            if name == "many":
                seed_finished(at.database_url, finished)
        measured["bare"] = _bare(stack, broker_url(valkey, 2))
        bursts: dict[str, list[_Flow]] = {name: [] for name in measured}
        steady: dict[str, list[_Flow]] = {name: [] for name in measured}
        for _ in range(rounds):
            for name, one in measured.items():
                bursts[name].append(one.burst(jobs // rounds))
                steady[name].append(one.steadily(steady_s))
    return _rows(bursts, steady, jobs, finished, rounds)


def _rows(
    bursts: dict[str, list[_Flow]], steady: dict[str, list[_Flow]], jobs: int, finished: int, rounds: int
) -> list[Row]:
    rate = {name: statistics.median(flow.per_s for flow in flows) for name, flows in bursts.items()}
    backlog = {name: _percentiles(flows) for name, flows in bursts.items()}
    soon = {name: _percentiles(flows) for name, flows in steady.items()}
    stack = (
        f"as the registry's rows say; PostgreSQL, Valkey, a registry of 2 processes, {WORKERS} Celery workers that claim and complete over HTTP;"
        f" {rounds} interleaved rounds"
    )
    celery = (
        f"peer: Celery {version('celery')} with its defaults over the same Valkey, {WORKERS} workers and a task that does "
        "nothing: no record, no lease, no result, and a killed worker's task is lost"
    )
    full = f"{finished:,} finished jobs with attempts, events and evaluations in the tables (ours) beside none (peer)"

    def waits(name: str) -> str:
        p50, p99 = backlog[name]
        return f"p50/p99 from submission to end {p50 / 1000:.2f}/{p99 / 1000:.2f} s in the backlog"

    sent = f"bursts of {jobs // rounds}, of {jobs:,} in all, over {CONNECTIONS} connections"
    rows = [
        _row("jobs that do nothing, jobs/s", rate["few"], rate["bare"], f"{sent}; {waits('few')}; {stack}; {celery}"),
        _row(
            "the same in full tables, jobs/s",
            rate["many"],
            rate["few"],
            f"{_growth(rate['few'], rate['many'])}; {full}; {sent}; {waits('many')}; {stack}",
        ),
    ]
    for index, name in enumerate(("p50", "p99")):
        few, many, bare = (soon[which][index] for which in ("few", "many", "bare"))
        what = f"submission to end at {PER_S:g} jobs/s, {name}, ms"
        rows += [
            _row(what, few, bare, f"{stack}; {celery}", lower=True),
            _row(f"{what}, in full tables", many, few, f"{_growth(many, few)}; {full}; {stack}", lower=True),
        ]
    return rows


def _growth(more: float, less: float) -> str:
    return f"grows {more / less:.2f}× (target at most 1.3×)"


def _percentiles(flows: list[_Flow]) -> tuple[float, float]:
    ordered = sorted(latency for flow in flows for latency in flow.latencies_ms)
    p50, p99 = (ordered[min(len(ordered) - 1, math.floor(share * len(ordered)))] for share in (0.5, 0.99))
    return p50, p99


def _row(what: str, ours: float, peer: float, note: str, *, lower: bool = False) -> Row:
    ratio = peer / ours if lower else ours / peer
    return {"what": what, "ours": round(ours, 1), "peer": round(peer, 1), "ratio": round(ratio, 2), "note": note}


def _paced(seconds: float) -> Iterator[None]:
    """Come `PER_S` times a second, for so long."""
    began = time.monotonic()
    for number in range(max(1, int(seconds * PER_S))):
        time.sleep(max(0.0, began + number / PER_S - time.monotonic()))
        yield


def _ours(stack: ExitStack, at: Site) -> _Ours:
    """Start the workers, and let each of them have had a job."""
    for number in range(WORKERS):
        command = celery_command("noop_worker", f"noop-{number}", "--queues=gpu,cpu")
        stack.enter_context(worker(at, f"noop-{number}", command, PYTHONPATH=str(_HERE)))
    ours = _Ours(at)
    ours.burst(10 * WORKERS)
    return ours


def _bare(stack: ExitStack, broker: str) -> _Bare:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    done = folder / "done"
    environment = environment_of(BARE_BROKER_URL=broker, BARE_DONE=str(done), PYTHONPATH=str(_HERE))
    for number in range(WORKERS):
        command = celery_command("bare_celery", f"bare-{number}")
        stack.enter_context(celery_process(command, environment, folder / f"bare-{number}.log"))
    bare = _Bare(broker, done)
    bare.burst(10 * WORKERS)
    return bare


if __name__ == "__main__":
    sizes = [int(argument) for argument in sys.argv[1:3]] or [JOBS, FINISHED]
    for row in run(*sizes):
        print(row)
