"""Jobs as callers see them: submitting, watching, cancelling, retrying; the workers that run them, and the queues."""

from __future__ import annotations

from collections.abc import Iterator

from sdk.api.transport import Transport, keyed, pages
from sdk.errors import NotFound
from sdk.names import check_job_id
from sdk.schemas.catalog import Published
from sdk.schemas.events import Event
from sdk.schemas.jobs import AttemptView, CheckpointPublication, CheckpointView, JobSubmission, JobView
from sdk.schemas.planning import DeviceForecasts
from sdk.schemas.work import QueueCapacity, WorkerView

#: A checkpoint's files are hashed before it becomes a version.
_PUBLISHING_S = 600.0
#: How long a request for events may take beyond its waiting time.
_ANSWERING_S = 30.0


def submit(transport: Transport, submission: JobSubmission, *, key: str | None) -> JobView:
    """Submit a job; the same idempotency key again gives the same job. Raises InvalidInput, NotFound, QuotaExceeded."""
    return transport.call("POST", "/jobs", JobView, body=submission, headers=keyed(key))


def iterate(
    transport: Transport, *, state: str | None = None, queue: str | None = None, limit: int
) -> Iterator[JobView]:
    """Yield the last `limit` jobs, newest first."""
    return pages(transport, "/jobs", JobView, params={"state": state, "queue": queue}, limit=limit)


def get(transport: Transport, job_id: str) -> JobView:
    """Return the current state of a job. Raises NotFound."""
    return transport.call("GET", f"/jobs/{check_job_id(job_id)}", JobView)


def cancel(transport: Transport, job_id: str) -> JobView:
    """Cancel a job. Raises NotFound, NotAllowed, Conflict for one that has succeeded or failed."""
    return transport.call("POST", f"/jobs/{check_job_id(job_id)}/cancel", JobView)


def retry(transport: Transport, job_id: str, *, key: str | None) -> JobView:
    """Submit a job again, as a new one; the same idempotency key gives the same one. Raises NotFound, NotAllowed, Conflict,
    QuotaExceeded.
    """
    return transport.call("POST", f"/jobs/{check_job_id(job_id)}/retry", JobView, headers=keyed(key))


def attempts(transport: Transport, job_id: str) -> list[AttemptView]:
    """Return the attempts at a job, oldest first. Raises NotFound."""
    return transport.call("GET", f"/jobs/{check_job_id(job_id)}/attempts", list[AttemptView])


def checkpoints(transport: Transport, job_id: str) -> list[CheckpointView]:
    """Return the stored checkpoints of a training, newest first. Raises NotFound."""
    return transport.call("GET", f"/jobs/{check_job_id(job_id)}/checkpoints", list[CheckpointView])


def newest_checkpoint(transport: Transport, job_id: str) -> CheckpointView:
    """Return the last checkpoint of a training. Raises NotFound for a job that has none."""
    found = checkpoints(transport, job_id)
    if not found:
        raise NotFound(f"job {job_id} has no checkpoint; see: adapterctl jobs show {job_id}", param="step")
    return found[0]


def publish_checkpoint(transport: Transport, job_id: str, step: int, publication: CheckpointPublication) -> Published:
    """Publish the adapter of a checkpoint as a version. Raises NotFound, NotAllowed, VerificationFailed."""
    path = f"/jobs/{check_job_id(job_id)}/checkpoints/{step}/publish"
    return transport.call("POST", path, Published, body=publication, timeout_s=_PUBLISHING_S)


def events(
    transport: Transport, job_id: str, *, after: int = 0, wait_s: float = 0, last: int | None = None
) -> list[Event]:
    """Return events after a cursor, or only the `last` few; waits up to `wait_s` seconds for one."""
    path, params = f"/jobs/{check_job_id(job_id)}/events", {"after": after, "wait_s": wait_s, "last": last}
    return transport.call("GET", path, list[Event], params=params, timeout_s=wait_s + _ANSWERING_S)


def workers(transport: Transport) -> list[WorkerView]:
    """Return the workers that have reported in the last week, by name."""
    return transport.call("GET", "/workers", list[WorkerView])


def capacity(transport: Transport) -> list[QueueCapacity]:
    """Return the current state of each queue: waiting and running jobs, and workers that could take them."""
    return transport.call("GET", "/capacity", list[QueueCapacity])


def devices(transport: Transport) -> list[DeviceForecasts]:
    """Return how much of their forecasts past trainings took, by device."""
    return transport.call("GET", "/devices", list[DeviceForecasts])
