"""Many who watch running jobs: how soon each sees what happened, and what that asks of the server and its database.

python benchmarks/watching.py [WATCHERS SECONDS]
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop
from fleet import Site, postgres_server, site
from held_jobs import claim_jobs, statements_since, submit_jobs
from load import LoadError, post
from startup import Row
from watchers import Connection, Sightings, Watcher

from sdk.schemas.work import Assignment

WATCHERS = 100
JOBS = 10
SECONDS = 15.0
#: Heartbeats a second of each job, with one line of a log each.
PER_S = 2.0
#: The peer asks this often.
ASK_EVERY_S = 0.5

_SETTLE_S = 2.0
_PATIENCE_S = 15.0

#: When the registry answered to each heartbeat: (job, message) → by the monotonic clock.
_Beats = dict[tuple[str, str], float]
#: Watches for ever over a connection.
_Watch = Callable[[Watcher, Connection], Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class _Found:
    """What one way of watching came to."""

    p50_ms: float
    p99_ms: float
    requests_per_s: float
    queries_per_s: float


def run(watchers: int = WATCHERS, seconds: float = SECONDS) -> list[Row]:
    """Watch in each way for so long. Raises LoadError where a watcher misses anything."""
    ways: dict[str, _Watch] = {
        "long poll": Watcher.long_poll,
        "server-sent events": Watcher.stream,
        "asking": lambda watcher, connection: watcher.ask_every(connection, ASK_EVERY_S),
    }
    with ExitStack() as stack:
        # The one way to count what is asked of it that this PostgreSQL has.
        postgres = stack.enter_context(postgres_server(log_statement="all"))
        at = stack.enter_context(site(postgres, "watched"))
        submit_jobs(at, JOBS)
        measure = _Measure(at, claim_jobs(at, JOBS), postgres.log_path, seconds)
        found = {name: measure.run(watchers, way) for name, way in ways.items()}
        beats_alone = measure.run(0, Watcher.long_poll).queries_per_s
    peer = found.pop("asking")
    note = (
        f"{watchers} watchers of {JOBS} running jobs, {PER_S:g} events/s a job, {seconds:g} s each; PostgreSQL, a registry of "
        f"2 processes; peer: the same watchers of the same registry, who ask every {ASK_EVERY_S:g} s"
    )
    counted = f"without those that begin and end transactions, beside {beats_alone:.0f}/s of the heartbeats"
    rows = []
    for name, ours in found.items():
        after = "after the heartbeat's answer"
        rows += [
            _row(f"event to watcher by {name}, p50, ms", ours.p50_ms, peer.p50_ms, f"{after}; {note}"),
            _row(f"event to watcher by {name}, p99, ms", ours.p99_ms, peer.p99_ms, f"{after}; {note}"),
            _row(
                f"watching by {name}, statements/s of the database",
                ours.queries_per_s - beats_alone,
                peer.queries_per_s - beats_alone,
                f"{counted}; {note}",
            ),
        ]
    polls = found["long poll"].requests_per_s
    return [*rows, _row("watching by long poll, requests/s", polls, peer.requests_per_s, note)]


def _row(what: str, ours: float, peer: float, note: str) -> Row:
    return {"what": what, "ours": round(ours, 1), "peer": round(peer, 1), "ratio": round(peer / ours, 2), "note": note}


class _Measure:
    """One way of watching after another, over the same jobs."""

    def __init__(self, at: Site, held: Sequence[Assignment], log: Path, seconds: float) -> None:
        self._port = at.server.port
        self._reader = at.server.tokens["reader"]
        self._worker = at.worker_token
        self._held = held
        self._log = log
        self._seconds = seconds
        self._beat = 0

    def run(self, watchers: int, way: _Watch) -> _Found:
        """Let so many watch, and beat, for the seconds that are measured."""
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(self._run(watchers, way))

    async def _run(self, count: int, way: _Watch) -> _Found:
        sightings = Sightings()
        beats: _Beats = {}
        watchers = [
            Watcher(number, self._held[number % len(self._held)].job, self._reader, sightings)
            for number in range(count)
        ]
        connections = [await Connection.open(self._port) for _ in (*watchers, *self._held)]
        watching = [
            asyncio.create_task(way(watcher, connection))
            for watcher, connection in zip(watchers, connections, strict=False)
        ]
        try:
            await asyncio.sleep(_SETTLE_S)
            answers, logged = sightings.answers, self._log.stat().st_size
            await _first_to_fail([*watching, asyncio.create_task(self._beat_all(connections[count:], beats))])
            answers, statements = sightings.answers - answers, statements_since(self._log, logged)
            seen = await self._all_seen(watchers, sightings, beats)
        finally:
            for task in watching:
                task.cancel()
            for connection in connections:
                connection.close()
            await asyncio.gather(*watching, return_exceptions=True)
        return _Found(*_percentiles(seen), answers / self._seconds, statements / self._seconds)

    async def _beat_all(self, connections: Sequence[Connection], beats: _Beats) -> None:
        """Send heartbeats of all jobs for the seconds that are measured, spread over their interval."""
        pause = 1 / PER_S / len(self._held)
        until = time.monotonic() + self._seconds
        pairs = enumerate(zip(self._held, connections, strict=True))
        await asyncio.gather(
            *(self._beat_one(held, over, beats, place * pause, until) for place, (held, over) in pairs)
        )

    async def _beat_one(self, held: Assignment, over: Connection, beats: _Beats, start_s: float, until: float) -> None:
        due = time.monotonic() + start_s
        while due < until:
            await asyncio.sleep(due - time.monotonic())
            self._beat += 1
            message = f"beat {self._beat}"
            body = {"attempt": held.attempt, "events": [{"kind": "log", "message": message}]}
            await over.ask(post(f"/api/v1/jobs/{held.job}/heartbeat", body, token=self._worker))
            beats[held.job, message] = time.monotonic()
            due += 1 / PER_S

    async def _all_seen(self, watchers: Sequence[Watcher], sightings: Sightings, beats: _Beats) -> list[float]:
        """Wait until each watcher has seen all of their job; return how long that took them, in milliseconds."""
        wanted = [
            ((watcher.number, job, message), answered)
            for watcher in watchers
            for (job, message), answered in beats.items()
            if job == watcher.job
        ]
        deadline = time.monotonic() + _PATIENCE_S
        while missed := sum(key not in sightings.at for key, _ in wanted):
            if time.monotonic() > deadline:
                raise LoadError(f"watchers did not see {missed} of {len(wanted)} events")
            await asyncio.sleep(0.05)
        return [1000 * (sightings.at[key] - answered) for key, answered in wanted]


async def _first_to_fail(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Return when the last of the tasks is done; raise what any other one raises before."""
    bounded = tasks[-1]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    if bounded not in done:
        bounded.cancel()
    for task in done:
        task.result()


def _percentiles(values: Sequence[float]) -> tuple[float, float]:
    ordered = sorted(values) or [math.nan]
    p50, p99 = (ordered[min(len(ordered) - 1, math.floor(share * len(ordered)))] for share in (0.5, 0.99))
    return p50, p99


if __name__ == "__main__":
    arguments = sys.argv[1:]
    for row in run(int(arguments[0]), float(arguments[1])) if len(arguments) == 2 else run():
        print(row)
