"""Jobs: for clients, and for workers; and workers, and how busy they are."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query, Response

from registry.access.keys import IdempotencyKey
from registry.artifacts.long_facts import SHORT_WAIT_S, holding_facts
from registry.db.paging import Cursor, Limit
from registry.http.routes import Reader, WorkerToken, Writer, answered, apart, room, service, written
from registry.jobs.checkpoints import StoredCheckpoints
from registry.jobs.claims import Claims
from registry.jobs.seen_rows import TrainedOnRows
from registry.jobs.service import Jobs
from registry.jobs.workers import Workers
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
from sdk.schemas.planning import DeviceForecasts
from sdk.schemas.training_rows import TrainingRowsView
from sdk.schemas.wire import Page
from sdk.schemas.work import (
    Assignment,
    CheckpointRecord,
    ClaimRequest,
    Completion,
    Failure,
    Farewell,
    Heartbeat,
    HeartbeatReply,
    QueueCapacity,
    Release,
    WorkerInfo,
    WorkerView,
)

router = room("", "jobs")

JobsDep = Annotated[Jobs, service(Jobs)]
CheckpointsDep = Annotated[StoredCheckpoints, service(StoredCheckpoints)]
ClaimsDep = Annotated[Claims, service(Claims)]
WorkersDep = Annotated[Workers, service(Workers)]

JobId = Annotated[str, Path(max_length=64)]
Step = Annotated[int, Path(ge=1, le=10_000_000)]


@router.post("/jobs", status_code=201)
async def submit_job(
    body: JobSubmission,
    jobs: JobsDep,
    who: Writer,
    key: IdempotencyKey,
) -> JobView:
    """Submit a job; the same `Idempotency-Key` with the same body gives the same job."""
    return await apart(jobs.submit, lane="planning", submission=body, who=who, idempotency_key=key)


@router.get("/jobs")
def list_jobs(
    jobs: JobsDep,
    who: Reader,
    state: JobState | None = None,
    queue: QueueName | None = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[JobView]:
    """The jobs that the caller may see, newest first."""
    wanted = None if state is None else state.value
    return jobs.list(state=wanted, queue=queue, cursor=cursor, limit=limit, who=who)


@router.get("/jobs/{job_id}")
def get_job(job_id: JobId, jobs: JobsDep, who: Reader) -> JobView:
    """One job."""
    return jobs.get(job_id, who=who)


@router.post("/jobs/{job_id}/cancel")
def cancel_job(job_id: JobId, jobs: JobsDep, who: Writer) -> JobView:
    """Cancel a waiting or running job; a cancelled one stays as it is."""
    return jobs.cancel(job_id, who=who)


@router.post("/jobs/{job_id}/retry", status_code=201)
def retry_job(job_id: JobId, jobs: JobsDep, who: Writer, key: IdempotencyKey, advice: bool = False) -> JobView:
    """Submit a failed or cancelled job again; a training resumes from its last checkpoint.

    With `advice`, a training that has ended, with or without a result, begins anew, changed as its result's `advice` says. The same
    `Idempotency-Key` gives the same new job.
    """
    return jobs.retry(job_id, advice=advice, who=who, idempotency_key=key)


@router.get("/jobs/{job_id}/attempts")
def list_attempts(job_id: JobId, jobs: JobsDep, who: Reader) -> list[AttemptView]:
    """The attempts at a job, oldest first."""
    return jobs.attempts(job_id, who=who)


@router.get("/jobs/{job_id}/checkpoints")
def list_checkpoints(job_id: JobId, checkpoints: CheckpointsDep, who: Reader) -> list[CheckpointView]:
    """The checkpoints of a training, newest first."""
    return checkpoints.list(job_id, who=who)


@router.post("/jobs/{job_id}/checkpoints/{step}/publish", status_code=201)
async def publish_checkpoint(
    job_id: JobId, step: Step, body: CheckpointPublication, checkpoints: CheckpointsDep, who: Writer
) -> Published:
    """Make a version from a checkpoint, with the job and the step in its lineage."""
    return await apart(checkpoints.publish, job_id=job_id, step=step, publication=body, who=who)


@router.post(
    "/jobs/claim", responses={204: {"description": "There is no work for this worker."}}, response_model=Assignment
)
def claim_job(
    body: ClaimRequest,
    claims: ClaimsDep,
    who: WorkerToken,
    key: IdempotencyKey,
) -> Response:
    """Ask for work; the registry chooses. With the same `Idempotency-Key`, the same job for as long as it is held."""
    # A merge is given the norms of a version, which may have a hundred thousand modules.
    with holding_facts(wait_s=SHORT_WAIT_S):
        assignment = claims.claim(claim=body, who=who, key=key)
        return Response(status_code=204) if assignment is None else written(assignment, 200)


@router.post("/jobs/{job_id}/heartbeat")
def hold_job(job_id: JobId, body: Heartbeat, claims: ClaimsDep, who: WorkerToken) -> HeartbeatReply:
    """Keep a job, and report progress."""
    return claims.heartbeat(job_id=job_id, beat=body, who=who)


@router.post("/jobs/{job_id}/checkpoints")
async def record_checkpoint(
    job_id: JobId, body: CheckpointRecord, checkpoints: CheckpointsDep, claims: ClaimsDep, who: WorkerToken
) -> CheckpointView:
    """Record a checkpoint that an attempt has stored."""
    holder = await answered(claims.namespace_of, job_id, who=who)
    return await apart(checkpoints.record, holder=holder, job_id=job_id, record=body, who=who)


@router.post("/jobs/{job_id}/release")
def release_job(job_id: JobId, body: Release, claims: ClaimsDep, who: WorkerToken) -> JobView:
    """Give back a job that a worker can't finish because it shuts down."""
    return claims.release(job_id=job_id, release=body, who=who)


@router.post("/jobs/{job_id}/complete")
async def complete_job(job_id: JobId, body: Completion, claims: ClaimsDep, who: WorkerToken) -> JobView:
    """Hand in a result."""
    # A worker may work for many namespaces: what it hands in is charged to that of the job.
    holder = await answered(claims.namespace_of, job_id, who=who)
    return await apart(claims.complete, lane="handing in", holder=holder, job_id=job_id, completion=body, who=who)


@router.post("/jobs/{job_id}/fail")
def fail_job(job_id: JobId, body: Failure, claims: ClaimsDep, who: WorkerToken) -> JobView:
    """Report a failure."""
    return claims.fail(job_id=job_id, failure=body, who=who)


@router.get("/version/training-rows")
def get_training_rows(
    ref: Annotated[str, Query(max_length=1000, examples=["team/code-review@production"])],
    trained_on: Annotated[TrainedOnRows, service(TrainedOnRows)],
    who: Reader,
) -> TrainingRowsView:
    """The first rows that a version was trained on, as its training saw them, with what the loss was computed on."""
    return trained_on.get(ref, who=who)


@router.get("/workers")
def list_workers(workers: WorkersDep, who: Reader) -> list[WorkerView]:
    """The workers of the last week that work where the caller reads, by name."""
    return workers.list(who=who)


@router.get("/capacity")
def read_capacity(workers: WorkersDep, who: Reader) -> list[QueueCapacity]:
    """Each queue as it is now: waiting and running jobs, and workers that could take them."""
    return workers.capacity(who=who)


@router.get("/devices")
def list_devices(workers: WorkersDep, who: Reader) -> list[DeviceForecasts]:
    """What past trainings that the caller may read took of their forecasts, and how fast they were, by device."""
    return workers.devices(who=who)


@router.post("/workers/hello", status_code=204, response_class=Response)
def greet(body: WorkerInfo, workers: WorkersDep, who: WorkerToken) -> None:
    """Report that a worker is there and idle."""
    workers.hello(body, who=who)


@router.post("/workers/leave", status_code=204, response_class=Response)
def leave(body: Farewell, workers: WorkersDep, who: WorkerToken) -> None:
    """Report that a worker takes no more jobs."""
    workers.leave(body.worker, who=who)
