"""The pages of a large registry: how long the server takes for each, how much is sent, and when a browser has drawn it.

    python benchmarks/pages.py [VERSIONS ADAPTERS JOBS]

PostgreSQL with as many versions, adapters and jobs as a large company has; a server of two processes; one session of a reader of
all namespaces. Times on the server are those of whole answers over one kept connection, warm, of different rows each time.
Without chromium its columns are left out.
"""

from __future__ import annotations

import random
import re
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import httpx
from fleet import Site, postgres_server, site, small_job
from job_seeding import seed_finished
from seeding import BASES, NAMESPACES, RANKS, seed_rows
from servers import RegistryServer
from startup import Row
from support import calls

from sdk.schemas.evaluation import Conditions, EvaluationReport
from sdk.schemas.jobs import JobView

VERSIONS, ADAPTERS, JOBS = 200_000, 20_000, 1_000_000
#: Answers of each page; of these the first are not counted.
CALLS, WARM_UP = 60, 5
#: How often a browser opens each.
OPENED = 5
_JOB = re.compile(r'href="/ui/jobs/([0-9a-f]+)"')


@dataclass
class _Reader:
    """A session, and what it asks for."""

    client: httpx.Client
    adapters: int
    jobs: list[str]

    def pages(self) -> dict[str, Callable[[], str]]:
        """Addresses by what is measured, others each time."""
        return {
            "catalogue": lambda: "/ui/adapters",
            "catalogue, a namespace": lambda: f"/ui/adapters?namespace=ns{random.randrange(NAMESPACES)}",  # noqa: S311
            "catalogue, a filter": lambda: (
                f"/ui/adapters?filter=base+%3D+base-{random.randint(1, BASES)}+and+rank+%3D+{random.choice(RANKS)}"  # noqa: S311
            ),
            "an adapter": lambda: f"/ui/adapters/{self._name()}",
            "a version": lambda: f"/ui/adapters/{self._name()}/v{random.randint(1, 10)}",  # noqa: S311
            "compare, 10 versions": lambda: "/ui/compare?refs=" + ",".join(f"{self._name()}@v1" for _ in range(10)),
            "jobs": lambda: "/ui/jobs",
            "jobs, failed": lambda: "/ui/jobs?state=failed",
            "a job": lambda: f"/ui/jobs/{random.choice(self.jobs)}",  # noqa: S311
            "sweeps": lambda: "/ui/sweeps",
            "workers": lambda: "/ui/workers",
        }

    def _name(self) -> str:
        number = random.randint(1, self.adapters)  # noqa: S311 - which one is no secret
        return f"ns{number % NAMESPACES}/adapter-{number}"


def run(versions: int = VERSIONS, adapters: int = ADAPTERS, jobs: int = JOBS) -> list[Row]:
    """Fill a registry and read its pages. Raises RuntimeError for a page that isn't there."""
    with ExitStack() as stack:
        postgres = stack.enter_context(
            postgres_server(shared_buffers="2GB", synchronous_commit="off", max_wal_size="8GB")
        )
        at = stack.enter_context(site(postgres, "pages"))
        server = at.server
        _finish_a_job(at)
        seed_rows(at.database_url, versions, adapters)
        seed_finished(at.database_url, jobs)
        client = stack.enter_context(_signed_in(server))
        reader = _Reader(client, adapters, _JOB.findall(client.get("/ui/jobs").text) or ["none"])
        drawn = _drawn(server, reader)
        note = f"PostgreSQL, {versions:,} versions, {adapters:,} adapters, {jobs:,} jobs; p95 of {CALLS}, warm (target 200 ms)"
        return [_row(name, *_asked(client, address), drawn.get(name), note) for name, address in reader.pages().items()]


def _finish_a_job(at: Site) -> None:
    """Have the one job evaluated that others are copies of."""
    at.client.call("POST", "/jobs", JobView, body=small_job(at))
    held = calls.hold(at.client)
    conditions = Conditions(
        loss_on="completion", max_length=1024, generated_rows=0, max_new_tokens=0, stop_ids=[], tokenizer="b" * 64
    )
    report = EvaluationReport(metrics={"loss": 1.25, "rows": 1.0}, precision="float32", conditions=conditions)
    calls.complete(at.client, held, evaluations=[calls.scored(target, report=report) for target in held.targets])


@contextmanager
def _signed_in(server: RegistryServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, headers={"Origin": server.url}, timeout=60, trust_env=False) as client:
        answer = client.post("/ui/sign-in", data={"token": server.tokens["reader"]})
        if answer.status_code != 303:
            raise RuntimeError(answer.text)
        yield client


def _asked(client: httpx.Client, address: Callable[[], str]) -> tuple[list[float], int]:
    times_ms, size = [], 0
    for call in range(WARM_UP + CALLS):
        began_s = time.perf_counter()
        answer = client.get(address())
        took_ms = (time.perf_counter() - began_s) * 1000
        if answer.status_code != 200:
            raise RuntimeError(f"{answer.request.url}: {answer.status_code} {answer.text[:500]}")
        if call >= WARM_UP:
            times_ms.append(took_ms)
        size = max(size, int(answer.headers.get("Content-Length", 0)))
    return times_ms, size


def _drawn(server: RegistryServer, reader: _Reader) -> dict[str, tuple[float, float, float]]:
    """Return, by page, when a browser could be used, in seconds, and what it loaded the first time and then, in bytes."""
    chromium = shutil.which("chromium")
    if chromium is None:
        return {}
    from support.browsing import Reader, browser

    drawn = {}
    with browser() as started:
        for name, address in reader.pages().items():
            shown = Reader(started, server.url)
            shown.sign_in(server.tokens["reader"])
            session = shown.context.new_cdp_session(shown.page)
            session.send("Network.enable")
            loaded: list[float] = []
            session.on("Network.loadingFinished", lambda event, into=loaded: into.append(event["encodedDataLength"]))
            session.send("Network.clearBrowserCache")
            ready_s, sizes = [], []
            for _ in range(OPENED):
                loaded.clear()
                shown.page.goto(address(), wait_until="load")
                ready_s.append(
                    shown.page.evaluate("performance.getEntriesByType('navigation')[0].domInteractive / 1000")
                )
                sizes.append(sum(loaded))
            drawn[name] = (statistics.median(ready_s), sizes[0], statistics.median(sizes[1:]))
            shown.context.close()
    return drawn


def _row(name: str, times_ms: list[float], size: int, drawn: tuple[float, float, float] | None, note: str) -> Row:
    shown: list[Any] = (
        []
        if drawn is None
        else [
            f"interactive in chromium {drawn[0]:.2f} s; {drawn[1] / 1000:.0f} kB first, {drawn[2] / 1000:.0f} kB then"
        ]
    )
    p95 = sorted(times_ms)[int(len(times_ms) * 0.95)]
    return {
        "what": f"{name}, ms",
        "ours": f"{p95:.0f} (median {statistics.median(times_ms):.0f})",
        "peer": "",
        "ratio": "",
        "note": "; ".join([*shown, note]),
    }


if __name__ == "__main__":
    given = [int(each) for each in sys.argv[1:]]
    for row in run(*given):
        print(row["what"], row["ours"], row["note"])
