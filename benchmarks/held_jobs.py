"""Jobs that a benchmark holds as their worker, and what their watchers ask of the database."""

from __future__ import annotations

import re
from pathlib import Path

from fleet import Site, small_job

from sdk.client import Client
from sdk.schemas.jobs import JobView
from sdk.schemas.work import Assignment, ClaimRequest, WorkerInfo

#: A statement in PostgreSQL's log, but for those that only begin and end transactions or look whether it is there.
_STATEMENT = re.compile(rb"LOG:  (?:statement|execute [^:]*): (?!BEGIN|COMMIT|ROLLBACK|;|\n)")


def submit_jobs(at: Site, count: int) -> None:
    """Submit so many small jobs."""
    submission = small_job(at)
    for _ in range(count):
        at.client.call("POST", "/jobs", JobView, body=submission)


def claim_jobs(at: Site, count: int) -> list[Assignment]:
    """Claim so many jobs, which are then held for as long as a lease lasts."""
    me = Client(at.server.url, at.worker_token, cache=at.folder / "worker-cache")
    found = []
    for number in range(count):
        worker = WorkerInfo(name=f"holder-{number}", device="cpu", memory_bytes=2**34, free_memory_bytes=2**34)
        found.append(me.call("POST", "/jobs/claim", Assignment, body=ClaimRequest(worker=worker)))
    me.close()
    return found


def statements_since(log: Path, size: int) -> int:
    """Return how many statements PostgreSQL's log has after its first `size` bytes."""
    with log.open("rb") as lines:
        lines.seek(size)
        return len(_STATEMENT.findall(lines.read()))
