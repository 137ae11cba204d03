"""Series of many trainings: what storing them costs, what they take, and how soon a page of curves is answered.

python benchmarks/series.py [JOBS STEPS]
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence

import httpx
from fleet import Site, postgres_server, site
from fleet import small_job as seeded
from sqlalchemy import create_engine, text

from sdk.client import Client
from sdk.schemas.job_requests import BaseChoice, TrainingRequest
from sdk.schemas.jobs import JobSubmission, JobView
from sdk.schemas.series import Point, SentPoints, StoredPoints
from sdk.schemas.training import TrainingSpec
from sdk.schemas.work import Assignment, ClaimRequest, WorkerInfo

JOBS, STEPS = 100, 10_000
NAMES = ("loss", "lr", "grad_norm", "tokens", "seconds", "memory_bytes", "eval_loss")
_TIMES = 7


def main(jobs: int = JOBS, steps: int = STEPS) -> None:
    """Print each figure on a line."""
    with postgres_server() as postgres, site(postgres, "series") as at:
        ids = submitted(at, jobs)
        worker = Client(at.server.url, at.worker_token, cache=at.folder / "worker")
        held = claimed(worker)
        chunk_ms, step_ms = sent(worker, held, steps)
        print(f"a chunk of 2,000 points, ms: {chunk_ms:.0f}; one point, ms: {step_ms:.1f}")
        size_bytes = copied(at.database_url, held.job, [job for job in ids if job != held.job])
        print(f"{steps} steps of {len(NAMES)} series, bytes: {size_bytes}")
        for keys, buckets in (("loss", 100), ("loss", 200), ("loss,eval_loss", 200), (None, 100)):
            params = {"jobs": ",".join(ids), "buckets": buckets} | ({} if keys is None else {"keys": keys})
            seconds, answer = timed(lambda given=params: read(at, given))  # type: ignore[misc]
            counts = [sum(one["series"]["loss"]["count"]) for one in answer.json()]
            if counts != [steps] * jobs:
                raise SystemExit(f"some steps are not in the answer: {sorted(set(counts))}")
            print(f"{jobs} jobs, {keys or 'all'}, {buckets} buckets: {seconds:.2f} s, {len(answer.content)} bytes")
        worker.close()


def submitted(at: Site, count: int) -> list[str]:
    """Submit so many trainings."""
    data = seeded(at).request.model_dump()["data"]
    request = TrainingRequest(adapter="curves", base=BaseChoice(id="tiny"), data=data, spec=TrainingSpec())
    body = JobSubmission(request=request)
    return [at.client.call("POST", "/jobs", JobView, body=body).id for _ in range(count)]


def claimed(worker: Client) -> Assignment:
    """Hold one of them."""
    info = WorkerInfo(name="w", device="cpu", memory_bytes=2**40, free_memory_bytes=2**40)
    return worker.call("POST", "/jobs/claim", Assignment, body=ClaimRequest(worker=info))


def sent(worker: Client, held: Assignment, steps: int) -> tuple[float, float]:
    """Send points; return the median milliseconds of a chunk of 2,000, and of one point."""
    points = [
        Point(step=step, values={name: (step * 7919 + at) % 1000 / 8 for at, name in enumerate(NAMES)})
        for step in range(1, steps + 1)
    ]
    whole, single = [], []
    begins = [*range(0, steps - 50, 2_000)]
    spans = [(begin, min(begin + 2_000, steps - 50)) for begin in begins] + [
        (n, n + 1) for n in range(steps - 50, steps)
    ]
    for serial, (begin, end) in enumerate(spans, start=1):
        after = points[begin - 1].step if begin else -1
        body = SentPoints(attempt=held.attempt, serial=serial, after=after, points=points[begin:end])
        began = time.perf_counter()
        worker.call("POST", f"/jobs/{held.job}/series", StoredPoints, body=body)
        (single if end - begin == 1 else whole).append(1000 * (time.perf_counter() - began))
    return statistics.median(whole), statistics.median(single)


def copied(database_url: str, job: str, others: Sequence[str]) -> int:
    """Give the other jobs the same points; return what they take of each."""
    engine = create_engine(database_url)
    with engine.begin() as connection:
        for other in others:
            given = {"job": job, "other": other}
            for table, columns in (
                ("job_series", "attempt, serial, names, last_step, size_bytes"),
                ("job_series_blocks", "number, first_step, last_step, points, names, data, record_bytes"),
            ):
                copy = (
                    f"INSERT INTO {table} (job_id, {columns}) SELECT :other, {columns} FROM {table} WHERE job_id = :job"
                )
                connection.execute(text(copy), given)
        size: int = connection.execute(
            text("SELECT size_bytes FROM job_series WHERE job_id = :job"), {"job": job}
        ).scalar_one()
    engine.dispose()
    return size


def read(at: Site, params: dict[str, str | int]) -> httpx.Response:
    """Ask for the series of several jobs."""
    headers = {"Authorization": f"Bearer {at.server.tokens['admin']}"}
    return httpx.get(f"{at.server.url}/api/v1/series", params=params, headers=headers, timeout=60).raise_for_status()


def timed(call: Callable[[], httpx.Response]) -> tuple[float, httpx.Response]:
    """The median seconds of several calls, and an answer."""
    took = []
    for _ in range(_TIMES):
        began = time.perf_counter()
        answer = call()
        took.append(time.perf_counter() - began)
    return statistics.median(took), answer


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
