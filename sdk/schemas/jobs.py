"""Jobs as they travel between client, registry and worker."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from sdk.schemas.catalog import Publication
from sdk.schemas.evaluation import EvaluationReport, EvaluationSpec, MergeReport, MergeSpec
from sdk.schemas.events import NewEvent, Progress
from sdk.schemas.manifest import Manifest
from sdk.schemas.refs import Ref, parse_name
from sdk.schemas.training import QuantizationRecipe, TrainingSpec
from sdk.schemas.wire import Sha256, Wire

JobKind = Literal["training", "evaluation", "merge"]


class JobState(StrEnum):
    """The life of a job."""

    #: Waits for a worker.
    QUEUED = "queued"
    #: One worker holds it by heartbeats.
    RUNNING = "running"
    #: Its result is recorded.
    SUCCEEDED = "succeeded"
    #: It ended without a result; `reason` says why.
    FAILED = "failed"
    #: Somebody cancelled it, and its processes are gone.
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the job will never change again."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class BaseChoice(Wire):
    """The base of a job: one that is registered (fingerprint), or one on the hub that a worker will fetch."""

    id: Annotated[str, Field(min_length=1, max_length=200)]
    revision: Annotated[str, Field(max_length=100)] | None = None
    fingerprint: Sha256 | None = None


class TrainingRequest(Wire):
    """Train an adapter over `base` on `data`."""

    kind: Literal["training"] = "training"
    adapter: str
    base: BaseChoice
    #: Digest of the dataset.
    data: Sha256
    eval_data: Sha256 | None = None
    spec: TrainingSpec = TrainingSpec()

    @field_validator("adapter")
    @classmethod
    def _name(cls, value: str) -> str:
        return parse_name(value)


class EvaluationTarget(Wire):
    """What is evaluated: a version (ref) or a bare base. Exactly one of the two."""

    ref: str | None = None
    base: BaseChoice | None = None

    @model_validator(mode="after")
    def _one(self) -> EvaluationTarget:
        if (self.ref is None) == (self.base is None):
            raise ValueError("an evaluation target is a ref or a base, one of the two")
        if self.ref is not None:
            Ref.parse(self.ref)
        return self

    @property
    def label(self) -> str:
        """How results name it: "code-review@v3", or "base:ID"."""
        return self.ref if self.ref is not None else f"base:{self.base.id}" if self.base is not None else ""


class EvaluationRequest(Wire):
    """Score every target on the same rows."""

    kind: Literal["evaluation"] = "evaluation"
    targets: Annotated[list[EvaluationTarget], Field(min_length=1, max_length=64)]
    data: Sha256
    spec: EvaluationSpec = EvaluationSpec()


class MergeRequest(Wire):
    """Merge a version into its base."""

    kind: Literal["merge"] = "merge"
    ref: str
    spec: MergeSpec = MergeSpec()

    @field_validator("ref")
    @classmethod
    def _ref(cls, value: str) -> str:
        return str(Ref.parse(value))


class JobSubmission(Wire):
    """A job as submitted. References are pinned when it is accepted."""

    request: Annotated[TrainingRequest | EvaluationRequest | MergeRequest, Field(discriminator="kind")]
    #: Higher goes first.
    priority: Annotated[int, Field(ge=-100, le=100)] = 0


class JobView(Wire):
    """A job as anybody may see it."""

    id: str
    kind: str
    state: JobState
    #: The adapter or ref that it is about, for lists.
    subject: str
    attempt: int
    #: Why it failed: "data", "base", "targets", "diverged", "oom", "worker_lost", "internal", …
    reason: str | None
    message: str | None
    cancel_requested: bool
    progress: Progress | None
    result: dict[str, Any] | None
    request: dict[str, Any]
    worker: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


# What follows is between the registry and a worker.


class WorkerInfo(Wire):
    """What a worker is and has; the registry chooses by it."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    device: Literal["cpu", "cuda"]
    #: Of the card, or of the machine where there is none.
    memory_bytes: Annotated[int, Field(ge=0)]
    free_memory_bytes: Annotated[int, Field(ge=0)]
    #: Fingerprints of bases that lie in the node's cache.
    cached_bases: list[Sha256] = []
    #: Folders that clients and this worker both see.
    shared_paths: list[str] = []
    kinds: list[JobKind] = ["training", "evaluation", "merge"]
    version: str = ""


class ClaimRequest(Wire):
    """A worker asks for work."""

    worker: WorkerInfo
    #: The job that a message named; only a hint.
    hint: str | None = None


class BaseSource(Wire):
    """Where a worker finds a base."""

    id: str
    revision: str | None
    fingerprint: str | None
    #: `file:///…` or `hf://…`.
    location: str | None
    #: The uploaded files, where there are any; `manifest_digest` finds their locations.
    manifest: Manifest | None = None


class TargetSource(Wire):
    """One thing to evaluate or merge, pinned."""

    #: "code-review@v3", or "base:ID".
    label: str
    #: Digest of the version; None for a bare base.
    digest: str | None
    manifest: Manifest | None
    base: BaseSource
    quantization: QuantizationRecipe | None


class Assignment(Wire):
    """A job that a worker holds: until `lease_s` after its last heartbeat, as attempt number `attempt`."""

    job: str
    attempt: int
    lease_s: float
    request: Annotated[TrainingRequest | EvaluationRequest | MergeRequest, Field(discriminator="kind")]
    #: The base of a training.
    base: BaseSource | None = None
    #: What an evaluation scores, or the one version that is merged.
    targets: list[TargetSource] = []
    #: Digest to file format.
    datasets: dict[str, str] = {}


class Heartbeat(Wire):
    """A worker holds on to its job and reports."""

    attempt: Annotated[int, Field(ge=1)]
    events: Annotated[list[NewEvent], Field(max_length=1000)] = []


class HeartbeatReply(Wire):
    """Whether the worker is to stop."""

    cancel: bool
    lease_s: float


class EvaluationResult(Wire):
    """The scores of one target."""

    label: str
    digest: str | None
    base_fingerprint: Sha256
    report: EvaluationReport


class MergeResult(Wire):
    """A merged model: its bytes, and how it was made."""

    manifest: Manifest
    upload: str
    report: MergeReport


class Completion(Wire):
    """A worker hands in the result of its attempt: exactly one of the three."""

    attempt: Annotated[int, Field(ge=1)]
    version: Publication | None = None
    evaluations: list[EvaluationResult] | None = None
    merge: MergeResult | None = None


class Failure(Wire):
    """A worker reports that its attempt failed."""

    attempt: Annotated[int, Field(ge=1)]
    reason: Annotated[str, Field(pattern=r"^[a-z_]{1,40}$")]
    message: Annotated[str, Field(max_length=4000)]


class EvaluationView(Wire):
    """A stored evaluation."""

    id: str
    #: "code-review@v3", or "base:ID".
    ref: str
    digest: str | None
    base_fingerprint: str
    dataset: str
    grader: str
    precision: str
    metrics: dict[str, float]
    samples: list[dict[str, str]]
    job: str
    created_at: datetime
