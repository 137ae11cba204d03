"""Jobs, as sent between the registry and its workers; workers and queues, as the registry knows them now."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from sdk.formats.visible_labels import parse_label
from sdk.schemas.advice import AdviceList
from sdk.schemas.artifacts import SignedManifest
from sdk.schemas.catalog import Publication
from sdk.schemas.combination import CombineReport
from sdk.schemas.evaluation import Better, EvaluationFailure, EvaluationReport, MergeReport, ScorerName
from sdk.schemas.events import NewEvent
from sdk.schemas.job_requests import JOB_KINDS, JobRequest, known_fields
from sdk.schemas.jobs import QueueName
from sdk.schemas.looks import MOST_LOOKS, LookRecord
from sdk.schemas.lora_config import QuantizationRecipe
from sdk.schemas.manifest import Manifest
from sdk.schemas.preview import Preview
from sdk.schemas.probe import Norms
from sdk.schemas.recorded import Day
from sdk.schemas.serving import ServedProbe
from sdk.schemas.sweeps import MemberResult
from sdk.schemas.trackers import TRACKERS, Runs, TrackerName
from sdk.schemas.training_report import Labels, TrainingReport
from sdk.schemas.training_rows import TrainingRows
from sdk.schemas.wire import IF_ANY, IF_SET, Sha256, Wire

#: How many bases of its cache a worker reports; with more, it is just less likely to get jobs for a base that it has.
MOST_CACHED = 256


#: The group of entry points in which users register their own scorers.
SCORERS_GROUP = "adapterctl.scorers"
#: The group in which they say of each score, `NAME` or `NAME.KEY`, whether `less` or `more` of it is better.
DIRECTIONS_GROUP = "adapterctl.scorer_directions"
#: Of how many scores a scorer may say so.
MOST_DIRECTIONS = 20
#: The most scorers that a worker reports, more than anybody has.
MOST_SCORERS = 100


#: The most fields of requests that a worker names, more than any release has, and one of them.
MOST_FIELDS = 500
FieldPath = Annotated[str, Field(pattern=r"^[a-z_-]{1,20}(\.[a-z0-9_]{1,40}){1,6}$")]


#: The name of a worker.
WorkerName = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(parse_label)]


class ScorerInfo(Wire):
    """A user's own scorer that is installed on a worker."""

    name: ScorerName
    #: The distribution that offers it, and its version.
    distribution: Annotated[str, Field(max_length=200)]
    version: Annotated[str, Field(max_length=100)]
    #: Score, `NAME` or `NAME.KEY`, to the direction in which it is better; scores without are not in it.
    better: Annotated[
        dict[Annotated[str, Field(min_length=1, max_length=100)], Better], Field(max_length=MOST_DIRECTIONS), IF_ANY
    ] = {}


class WorkerInfo(Wire):
    """What a worker is and has; the registry chooses jobs by it."""

    name: WorkerName
    device: Literal["cpu", "cuda"]
    #: Of the GPU, or of the machine if it has none.
    memory_bytes: Annotated[int, Field(ge=0, le=2**62)]
    free_memory_bytes: Annotated[int, Field(ge=0, le=2**62)]
    #: Fingerprints of bases in the node's cache.
    cached_bases: Annotated[list[Sha256], Field(max_length=MOST_CACHED)] = []
    #: Folders that clients and this worker both see.
    shared_paths: Annotated[list[Annotated[str, Field(max_length=1000)]], Field(max_length=64)] = []
    #: May include kinds that only a newer release than the registry's knows.
    kinds: Annotated[list[Annotated[str, Field(pattern=r"^[a-z_-]{1,20}$")]], Field(max_length=32)] = list(JOB_KINDS)
    queues: Annotated[list[QueueName], Field(min_length=1, max_length=2)] = ["gpu", "cpu"]
    version: Annotated[str, Field(max_length=40)] = ""
    #: The fields of requests that it knows, as `request_fields` names them: it is given no job that uses another one.
    fields: Annotated[list[FieldPath], Field(max_length=MOST_FIELDS)] = sorted(known_fields())
    #: The scorers that jobs may ask for; None: they are more than can be said, or it doesn't say.
    scorers: Annotated[Annotated[list[ScorerInfo], Field(max_length=MOST_SCORERS)] | None, IF_SET] = None
    #: The trackers whose libraries are installed.
    trackers: Annotated[list[TrackerName], Field(max_length=len(TRACKERS)), IF_ANY] = []


class ClaimRequest(Wire):
    """A worker asks for work."""

    worker: WorkerInfo
    #: The job that the broker's message named; only a hint.
    hint: Annotated[str, Field(max_length=64)] | None = None


class BaseSource(Wire):
    """Where a worker finds a base."""

    id: str
    revision: str | None
    fingerprint: str | None
    #: `file:///…` or `hf://…`.
    location: str | None
    #: The uploaded files, if any; `manifest_digest` finds their locations.
    manifest: Manifest | None = None
    #: Whether a worker or the registry has verified its facts; if not, the worker that hashes it reports them.
    hashed: bool = True
    #: The base's namespace; "*" if it is published for all.
    namespace: str | None = None


class TargetSource(Wire):
    """One thing to evaluate or merge, pinned."""

    #: "code-review@v3", or "base:ID".
    label: str
    #: Digest of the version; None for a bare base.
    digest: str | None
    manifest: Manifest | None
    base: BaseSource
    quantization: QuantizationRecipe | None
    #: The date that chat templates were given when the version was trained, if they asked.
    template_date: Day | None = None
    #: Ids of the tokens that the version was taught to stop at.
    stop_ids: list[int] = []
    #: The version's labels, if it is a classifier.
    labels: Labels | None = None
    #: For a merge: the norm of ΔW of each module, as the registry derived it at publication. None: it could not.
    delta_norms: Annotated[Norms | None, IF_SET] = None


class CheckpointSource(Wire):
    """The checkpoint that a training starts from; its files are fetched by the digest of the manifest."""

    job: str
    step: int
    manifest: Manifest


class Assignment(Wire):
    """A job that a worker holds: until `lease_s` after its last heartbeat, as attempt number `attempt`."""

    job: str
    attempt: int
    lease_s: float
    #: The job's namespace; what the worker registers for the job belongs to it.
    namespace: str | None = None
    request: JobRequest
    #: The base of a training or a preview.
    base: BaseSource | None = None
    #: What an evaluation scores, the one version that is merged, or those that are combined.
    targets: list[TargetSource] = []
    #: Digest to file format.
    datasets: dict[str, str] = {}
    checkpoint: CheckpointSource | None = None
    #: How long this attempt may run, in seconds.
    timeout_s: float | None = None
    #: The runs of trackers to which an earlier attempt has forwarded points, or the job that this one resumes.
    runs: Annotated[Runs, IF_ANY] = {}


class Heartbeat(Wire):
    """A worker keeps its job and reports progress."""

    attempt: Annotated[int, Field(ge=1)]
    events: Annotated[list[NewEvent], Field(max_length=1000)] = []
    #: The runs of trackers to which this attempt forwards points, if there is news of them.
    runs: Annotated[Runs, IF_ANY] = {}
    #: All that the training is advised so far, if there is news of it.
    advice: Annotated[AdviceList, IF_ANY] = []


class HeartbeatReply(Wire):
    """Whether the worker should stop."""

    cancel: bool
    lease_s: float


class CheckpointRecord(Wire):
    """A worker has stored a checkpoint of its attempt."""

    attempt: Annotated[int, Field(ge=1)]
    step: Annotated[int, Field(ge=1)]
    total: Annotated[int, Field(ge=1)]
    upload: str
    manifest: Manifest
    #: What the training would report if it ended here.
    report: TrainingReport


class Release(Wire):
    """A worker that shuts down gives its job back."""

    attempt: Annotated[int, Field(ge=1)]


class Farewell(Wire):
    """A worker will take no more jobs."""

    worker: WorkerName


class EvaluationResult(Wire):
    """What became of one target: its scores, those that are recorded already, or why it has none."""

    label: str
    digest: str | None
    base_fingerprint: Sha256
    report: EvaluationReport | None = None
    #: The id of its earlier scores under the same conditions.
    recorded: Annotated[str | None, Field(max_length=64, exclude_if=lambda value: value is None)] = None
    #: The upload session in which its file of rows was sent; None: there is none.
    upload: Annotated[str | None, Field(max_length=64, exclude_if=lambda value: value is None)] = None
    failure: Annotated[EvaluationFailure | None, IF_SET] = None

    @model_validator(mode="after")
    def _one(self) -> EvaluationResult:
        if sum(said is not None for said in (self.report, self.recorded, self.failure)) != 1:
            raise ValueError("a target has either scores, recorded ones, or a failure")
        return self


class MergeResult(Wire):
    """A merged model: its bytes, and how it was made."""

    manifest: Manifest
    upload: str
    report: MergeReport
    #: Over the manifest, for a model that becomes a version; needed if the registry accepts only signed ones.
    signature: Annotated[SignedManifest | None, IF_SET] = None


class CombineResult(Wire):
    """A combination of versions: the version that it makes, and how it was made."""

    version: Publication
    report: CombineReport


class Completion(Wire):
    """A worker hands in the result of its attempt, in the field for its kind of job."""

    attempt: Annotated[int, Field(ge=1)]
    version: Publication | None = None
    #: What the training that made the version is advised.
    advice: Annotated[AdviceList, IF_ANY] = []
    evaluations: list[EvaluationResult] | None = None
    merge: MergeResult | None = None
    preview: Preview | None = None
    combination: Annotated[CombineResult | None, IF_SET] = None
    #: The looks of a training at its held-out rows, or some of them.
    looks: Annotated[list[LookRecord], Field(max_length=MOST_LOOKS), IF_ANY] = []
    #: Of a training that is a member of a sweep.
    member: Annotated[MemberResult | None, IF_SET] = None
    #: What the version of a training answers.
    served_probe: Annotated[ServedProbe | None, IF_SET] = None
    #: The first rows of a training, as it saw them.
    training_rows: Annotated[TrainingRows | None, IF_SET] = None

    @property
    def uploads(self) -> set[str]:
        """The upload sessions in which its files were sent."""
        versions = [self.version, None if self.combination is None else self.combination.version]
        parts = [*versions, self.merge, *(self.evaluations or ())]
        return {part.upload for part in parts if part is not None and part.upload is not None}


class Failure(Wire):
    """A worker reports that its attempt failed."""

    attempt: Annotated[int, Field(ge=1)]
    #: In one word: "data", "oom" and so on, or a reason that only a newer release than the registry's knows.
    reason: Annotated[str, Field(pattern=r"^[a-z_]{1,40}$")]
    message: Annotated[str, Field(max_length=4000)]


class WorkerView(Wire):
    """A worker as the registry knows it. Workers of two tokens with the same name are two workers."""

    name: str
    #: The id of its token; None if the registry asks for none.
    token: str | None = None
    device: str
    memory_bytes: int
    free_memory_bytes: int
    #: Fingerprints; empty if the worker also works in namespaces that the caller may not read.
    cached_bases: list[str]
    queues: list[str]
    version: str
    #: Users' own scorers that it has; None if it doesn't say, or also works in namespaces that the caller may not read.
    scorers: list[ScorerInfo] | None = None
    #: The trackers that it can forward points to; None as for scorers.
    trackers: Annotated[list[str] | None, IF_ANY] = None
    #: "busy", "idle", "draining" while it shuts down, or "silent" if nothing was heard from it for a while.
    state: str
    job: str | None
    seen_at: datetime


class QueueCapacity(Wire):
    """One queue, as it is now."""

    queue: str
    queued: int
    running: int
    #: Workers that listen to it and are not silent.
    workers: int
    idle: int
    #: Age of the job that has waited longest, in seconds.
    oldest_s: float | None
    #: Queued jobs that no recently seen worker can run.
    unfit: int
