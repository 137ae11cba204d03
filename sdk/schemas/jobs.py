"""Jobs, as sent between client, registry and worker."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from sdk.formats.refs import parse_name
from sdk.schemas.advice import AdviceList
from sdk.schemas.catalog import Tags
from sdk.schemas.events import Progress
from sdk.schemas.job_requests import JobRequest
from sdk.schemas.planning import JobForecast, JobPeak
from sdk.schemas.trackers import TrackedRun
from sdk.schemas.wire import IF_ANY, Open, Wire

#: "gpu" for jobs that a GPU makes fast, "cpu" for those that only move bytes. A worker listens to one or both.
QueueName = Literal["gpu", "cpu"]


class JobState(StrEnum):
    """The states of a job."""

    #: Waits for a worker.
    QUEUED = "queued"
    #: One worker holds it and sends heartbeats.
    RUNNING = "running"
    #: Its result is recorded.
    SUCCEEDED = "succeeded"
    #: It ended without a result; `reason` says why.
    FAILED = "failed"
    #: Somebody cancelled it, and its processes have ended.
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the job will never change again."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


#: No machine has this much, but every database can store it.
MOST_MEMORY_BYTES = 2**62


class Needs(Wire):
    """What a worker must have to be given a job."""

    device: Annotated[Literal["any", "cuda"], Open] = "any"
    #: Free memory, of the GPU or of the machine; None if it is not known in advance.
    memory_bytes: Annotated[int, Field(ge=0, le=MOST_MEMORY_BYTES)] | None = None


class JobSettings(Wire):
    """How a job of any kind runs."""

    #: Higher goes first within the namespace. A writer may give up to 10, a promoter or an admin of the namespace up to
    #: 50. Above that, which only an admin of all namespaces may give, the job goes before the jobs of every namespace;
    #: below 0, after them.
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    #: None: the registry's estimate from kind and base.
    needs: Needs | None = None
    #: How long one attempt may run, in seconds; then the job fails with the reason "timeout". None: the registry's
    #: default.
    timeout_s: Annotated[float, Field(gt=0, le=31_536_000)] | None = None


class JobSubmission(JobSettings):
    """A job as submitted. References are pinned when it is accepted."""

    request: JobRequest
    #: Refuse it if no worker that is there now can run it.
    require_worker: Annotated[bool, IF_ANY] = False


class AttemptView(Wire):
    """One worker's attempt at a job."""

    attempt: int
    worker: str
    #: "running", "succeeded", "failed", "cancelled", "released" by a worker that shut down, "lost" with its worker.
    state: str
    reason: str | None
    message: str | None
    started_at: datetime
    finished_at: datetime | None


class JobView(Wire):
    """A job as shown to readers."""

    id: str
    kind: str
    state: Annotated[JobState, Open]
    #: The adapter or ref that the job works on, for lists.
    subject: str
    attempt: int
    #: Why it failed, in one word: "data", "oom", "worker_lost" and so on, or another reason from a worker of a newer
    #: release.
    reason: str | None
    message: str | None
    cancel_requested: bool
    progress: Progress | None
    result: dict[str, Any] | None
    request: dict[str, Any]
    worker: str | None
    priority: int = 0
    queue: str = "gpu"
    needs: Needs = Needs()
    #: The forecast of its memory, if its kind has one; shown for a single job, not in lists.
    forecast: JobForecast | None = None
    #: What a training took, next to its worker's forecast; shown for a single job, too.
    peak: JobPeak | None = None
    #: How many attempts failed or were lost; attempts that a worker gave back don't count.
    failures: int = 0
    #: Step of the last checkpoint.
    checkpoint_step: int | None = None
    #: The job that this one retries.
    retry_of: str | None = None
    #: The runs of trackers to which its points are forwarded, by the tracker's name.
    runs: Annotated[dict[str, TrackedRun], IF_ANY] = {}
    #: What the training is advised by its own numbers, so far or at its end; what its last attempt was, if it has no result.
    advice: Annotated[AdviceList, IF_ANY] = []
    #: For a queued job: how many jobs in its queue go before it.
    ahead: int | None = None
    #: For a queued job: why it waits, in one sentence.
    waits: str | None = None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class CheckpointView(Wire):
    """A stored checkpoint."""

    job: str
    step: int
    total: int
    attempt: int
    #: SHA-256 of its manifest.
    digest: str
    size_bytes: int
    metrics: dict[str, float]
    created_at: datetime
    #: When it will be removed; None: never, since it is the last of its job.
    expires_at: datetime | None


class CheckpointPublication(Wire):
    """Publish the adapter of a checkpoint as a version."""

    #: None: the adapter that the job trains.
    adapter: str | None = None
    tags: Tags = {}
    description: Annotated[str, Field(max_length=4000)] = ""

    @field_validator("adapter")
    @classmethod
    def _name(cls, value: str | None) -> str | None:
        return None if value is None else parse_name(value)
