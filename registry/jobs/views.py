"""Jobs: for clients, and for workers."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header, Path, Response

from registry.http.routes import Cursor, Given, Limit, Reader, WorkerToken, Writer, apart, room
from sdk.schemas.catalog import Published
from sdk.schemas.jobs import (
    AttemptView,
    CheckpointPublication,
    CheckpointView,
    JobState,
    JobSubmission,
    JobView,
    QueueName,
)
from sdk.schemas.pages import Page
from sdk.schemas.work import (
    Assignment,
    CheckpointRecord,
    ClaimRequest,
    Completion,
    Failure,
    Heartbeat,
    HeartbeatReply,
    Release,
)

router = room("/jobs", "jobs")

JobId = Annotated[str, Path(max_length=64)]
Step = Annotated[int, Path(ge=1, le=10_000_000)]


@router.post("", status_code=201)
def submit_job(
    body: JobSubmission,
    services: Given,
    who: Writer,
    idempotency_key: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> JobView:
    """Submit a job; the same `Idempotency-Key` with the same body gives the same job."""
    return services.jobs.submit(submission=body, who=who, idempotency_key=idempotency_key)


@router.get("")
def list_jobs(
    services: Given,
    who: Reader,
    state: JobState | None = None,
    queue: QueueName | None = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[JobView]:
    """The jobs that the caller may see, the newest first."""
    wanted = None if state is None else state.value
    return services.jobs.list(state=wanted, queue=queue, cursor=cursor, limit=limit, who=who)


@router.get("/{job_id}")
def get_job(job_id: JobId, services: Given, who: Reader) -> JobView:
    """One job."""
    return services.jobs.get(job_id, who=who)


@router.post("/{job_id}/cancel")
def cancel_job(job_id: JobId, services: Given, who: Writer) -> JobView:
    """Cancel a job that waits or runs; one that was cancelled stays as it is."""
    return services.jobs.cancel(job_id, who=who)


@router.post("/{job_id}/retry", status_code=201)
def retry_job(job_id: JobId, services: Given, who: Writer) -> JobView:
    """Submit a failed or cancelled job once more; a training goes on from its last checkpoint."""
    return services.jobs.retry(job_id, who=who)


@router.get("/{job_id}/attempts")
def list_attempts(job_id: JobId, services: Given, who: Reader) -> list[AttemptView]:
    """The attempts at a job, the first one first."""
    return services.jobs.attempts(job_id, who=who)


@router.get("/{job_id}/checkpoints")
def list_checkpoints(job_id: JobId, services: Given, who: Reader) -> list[CheckpointView]:
    """The checkpoints of a training, the newest first."""
    return services.checkpoints.list(job_id, who=who)


@router.post("/{job_id}/checkpoints/{step}/publish", status_code=201)
async def publish_checkpoint(
    job_id: JobId, step: Step, body: CheckpointPublication, services: Given, who: Writer
) -> Published:
    """Make the adapter of a checkpoint a version, with the job and the step in its lineage."""
    return await apart(services.checkpoints.publish, job_id=job_id, step=step, publication=body, who=who)


@router.post("/claim", responses={204: {"description": "There is no work for this worker."}}, response_model=Assignment)
def claim_job(
    body: ClaimRequest,
    services: Given,
    who: WorkerToken,
    idempotency_key: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Assignment | Response:
    """Ask for work; the registry chooses. With the same `Idempotency-Key`, the same job for as long as it is held."""
    assignment = services.claims.claim(claim=body, who=who, key=idempotency_key)
    return Response(status_code=204) if assignment is None else assignment


@router.post("/{job_id}/heartbeat")
def hold_job(job_id: JobId, body: Heartbeat, services: Given, who: WorkerToken) -> HeartbeatReply:
    """Hold on to a job, and report."""
    return services.claims.heartbeat(job_id=job_id, beat=body, who=who)


@router.post("/{job_id}/checkpoints")
async def record_checkpoint(job_id: JobId, body: CheckpointRecord, services: Given, who: WorkerToken) -> CheckpointView:
    """Keep a checkpoint that an attempt has stored."""
    return await apart(services.checkpoints.record, job_id=job_id, record=body, who=who)


@router.post("/{job_id}/release")
def release_job(job_id: JobId, body: Release, services: Given, who: WorkerToken) -> JobView:
    """Give a job back that a worker, which shuts down, can't finish."""
    return services.claims.release(job_id=job_id, release=body, who=who)


@router.post("/{job_id}/complete")
async def complete_job(job_id: JobId, body: Completion, services: Given, who: WorkerToken) -> JobView:
    """Hand in a result."""
    return await apart(services.claims.complete, job_id=job_id, completion=body, who=who)


@router.post("/{job_id}/fail")
def fail_job(job_id: JobId, body: Failure, services: Given, who: WorkerToken) -> JobView:
    """Report a failure."""
    return services.claims.fail(job_id=job_id, failure=body, who=who)
