"""Many readers of the live list of jobs: what they ask of the server and its database, and how soon all see what happened.

python benchmarks/live_pages.py [READERS SECONDS]
"""

from __future__ import annotations

import asyncio
import html
import os
import re
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import uvloop
from fleet import Site, postgres_server, site
from held_jobs import claim_jobs, statements_since, submit_jobs
from load import LoadError, post
from startup import Row
from watchers import Connection

from sdk.schemas.work import Assignment

READERS = 500
TOKENS = 20
JOBS = 10
SECONDS = 15.0
#: One heartbeat of one of the jobs this often, in seconds.
BEAT_EVERY_S = 1.5

_SETTLE_S = 5.0
_PATIENCE_S = 15.0
_LIVE = re.compile(r'data-live="([^"]+)"')
_STEP = re.compile(rb" (\d+)/1000000 steps")


@dataclass
class _Reader:
    """One stream, and when it had which step first, by the monotonic clock."""

    request: bytes
    seen: dict[int, float] = field(default_factory=dict)
    size_bytes: int = 0
    last: bytes = b""

    def take(self, part: bytes) -> None:
        """Note what came."""
        now = time.monotonic()
        self.size_bytes += len(part)
        self.last = part
        for match in _STEP.finditer(part):
            self.seen.setdefault(int(match[1]), now)


def run(readers: int = READERS, seconds: float = SECONDS) -> list[Row]:
    """Let so many read, at rest and while jobs go on. Raises LoadError where one misses anything."""
    with ExitStack() as stack:
        postgres = stack.enter_context(postgres_server(log_statement="all"))
        at = stack.enter_context(site(postgres, "live", REGISTRY_MAX_CONNECTIONS_PER_ADDRESS=str(2 * readers)))
        submit_jobs(at, JOBS)
        reading = _sign_in(at, readers)
        held = claim_jobs(at, JOBS)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            found = runner.run(_measure(at, held, reading, postgres.log_path, seconds))
    note = f"{readers} readers of /ui/jobs, {TOKENS} tokens; PostgreSQL, a registry of 2 processes; statements "
    note += "without those that begin and end transactions, and those of a server that nobody looks at"
    targets = {"statements": "(target 5)", "core": "(target 30)", "slowest": "(target 1)"}
    rows = [
        ("live list at rest, statements/s of the database " + targets["statements"], found["rest_statements_per_s"]),
        ("live list at rest, % of a core " + targets["core"], found["rest_core"]),
        ("live list, event to the last of all readers, s, median", found["median_s"]),
        ("live list, event to the last of all readers, s, slowest " + targets["slowest"], found["slowest_s"]),
        ("live list while jobs report, % of a core", found["busy_core"]),
        ("live list, bytes to a reader for an event", found["event_bytes"]),
    ]
    return [{"what": what, "ours": round(value, 2), "peer": None, "ratio": None, "note": note} for what, value in rows]


async def _measure(
    at: Site, held: Sequence[Assignment], readers: Sequence[_Reader], log: Path, seconds: float
) -> dict[str, float]:
    logged = log.stat().st_size
    await asyncio.sleep(seconds)
    alone = statements_since(log, logged) / seconds
    connections = [await Connection.open(at.server.port) for _ in readers]
    streams = [
        asyncio.create_task(connection.ask(reader.request, reader.take))
        for connection, reader in zip(connections, readers, strict=True)
    ]
    try:
        await asyncio.sleep(_SETTLE_S)
        logged, worked, began = log.stat().st_size, _cpu_s(), time.monotonic()
        await asyncio.sleep(seconds)
        took = time.monotonic() - began
        rest = {
            "rest_statements_per_s": statements_since(log, logged) / took - alone,
            "rest_core": 100 * (_cpu_s() - worked) / took,
        }
        sizes, worked, began = sum(reader.size_bytes for reader in readers), _cpu_s(), time.monotonic()
        beats = await _beat(at, held, seconds)
        busy = 100 * (_cpu_s() - worked) / (time.monotonic() - began)
        if ended := [reader for reader, stream in zip(readers, streams, strict=True) if stream.done()]:
            raise LoadError(f"{len(ended)} streams have ended, one with {ended[0].last[-300:]!r}")
        lasts = await _lasts(readers, beats)
        sizes = sum(reader.size_bytes for reader in readers) - sizes
    finally:
        for stream in streams:
            stream.cancel()
        for connection in connections:
            connection.close()
        await asyncio.gather(*streams, return_exceptions=True)
    return rest | {
        "median_s": statistics.median(lasts),
        "slowest_s": max(lasts),
        "busy_core": busy,
        "event_bytes": sizes / len(readers) / len(beats),
    }


async def _beat(at: Site, held: Sequence[Assignment], seconds: float) -> dict[int, float]:
    """Send a heartbeat now and then, each with a step that no other has; return when each was answered."""
    over = await Connection.open(at.server.port)
    beats: dict[int, float] = {}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        step = len(beats) + 1
        job = held[step % len(held)]
        progress = {"phase": "evaluate", "step": step, "total": 1_000_000}
        body = {"attempt": job.attempt, "events": [{"kind": "progress", "progress": progress}]}
        await over.ask(post(f"/api/v1/jobs/{job.job}/heartbeat", body, token=at.worker_token))
        beats[step] = time.monotonic()
        await asyncio.sleep(BEAT_EVERY_S)
    over.close()
    return beats


async def _lasts(readers: Sequence[_Reader], beats: dict[int, float]) -> list[float]:
    """Wait until all have seen every step; return how long the last one of all took for each."""
    deadline = time.monotonic() + _PATIENCE_S
    while missed := sum(step not in reader.seen for reader in readers for step in beats):
        if time.monotonic() > deadline:
            raise LoadError(f"readers did not see {missed} of {len(readers) * len(beats)} events")
        await asyncio.sleep(0.05)
    return [max(reader.seen[step] for reader in readers) - answered for step, answered in beats.items()]


def _cpu_s() -> float:
    """The seconds that the server's processes have computed."""
    return sum(_seconds_of(pid) for pid in _server_pids())


def _server_pids() -> Iterator[int]:
    parents: dict[int, int] = {}
    roots: set[int] = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            pid, fields = int(entry.name), (entry / "stat").read_text().rpartition(")")[2].split()
            parents[pid] = int(fields[1])
            if b"adapter-registry\0serve" in (entry / "cmdline").read_bytes() and parents[pid] == os.getpid():
                roots.add(pid)
        except OSError:
            continue
    for pid in parents:
        above = pid
        while above in parents and above not in roots:
            above = parents[above]
        if above in roots:
            yield pid


def _seconds_of(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _sign_in(at: Site, readers: int) -> list[_Reader]:
    """Let each reader sign in with one of the tokens, and load the page."""
    secrets = [at.client.tokens.create(f"reader {number}", {"-": "reader"}).secret for number in range(TOKENS)]
    host = f"127.0.0.1:{at.server.port}"
    found = []
    live = ""
    for number in range(readers):
        with httpx.Client(base_url=at.server.url, headers={"Origin": at.server.url}, timeout=30) as browser:
            browser.post("/ui/sign-in", data={"token": secrets[number % TOKENS], "next": "/ui/jobs"})
            if number == 0:
                # All have the same rights, and so the same page.
                live = html.unescape(_LIVE.findall(browser.get("/ui/jobs").text)[0])
            cookie = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
        head = f"GET {live} HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\n"
        found.append(_Reader(f"{head}Accept: text/event-stream\r\n\r\n".encode()))
    return found


if __name__ == "__main__":
    arguments = sys.argv[1:]
    for row in run(int(arguments[0]), float(arguments[1])) if len(arguments) == 2 else run():
        print(row)
