"""The requests of jobs: one for each kind; `JobRequest` is their union."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator, model_validator

from sdk.formats.refs import Ref, parse_name
from sdk.schemas.combination import CombineRequest
from sdk.schemas.evaluation import EvaluationSpec, MergeSpec
from sdk.schemas.option_types import Columns
from sdk.schemas.preview import MOST_JOB_ROWS
from sdk.schemas.recorded import RecordedTraining
from sdk.schemas.rendering import Day
from sdk.schemas.training import TrainingSpec
from sdk.schemas.wire import Open, Sha256, Wire

#: The most datasets of one training.
MOST_SOURCES = 32
#: A dataset's name and number, as "reviews@v2".
DataName = Annotated[str, Field(min_length=1, max_length=211)]


class BaseChoice(Wire):
    """The base of a job: one that is registered (fingerprint), or one on the hub that a worker will fetch."""

    id: Annotated[str, Field(min_length=1, max_length=200)]
    revision: Annotated[str, Field(max_length=100)] | None = None
    fingerprint: Sha256 | None = None
    #: Whose base the id means, if it means several in the job's namespace: a namespace's, or the published one. The
    #: registry pins the fingerprint, so this is not recorded.
    base_namespace: Annotated[
        Annotated[str, Field(min_length=1, max_length=64)] | None, Field(exclude_if=lambda value: value is None)
    ] = None
    published: Annotated[bool, Field(exclude_if=lambda value: not value)] = False


class CheckpointPolicy(Wire):
    """How often a training saves a checkpoint: whichever comes first. With neither, only when it is stopped."""

    every_steps: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    every_minutes: Annotated[float, Field(gt=0, le=10_080)] | None = 10.0


class CheckpointRef(Wire):
    """A checkpoint of an earlier job: the one at a step, or the last."""

    job: Annotated[str, Field(min_length=1, max_length=64)]
    step: Annotated[int, Field(ge=1, le=10_000_000)] | None = None


class ParentChoice(Wire):
    """The version that a training continues."""

    ref: str
    #: SHA-256 of its manifest; the registry pins it when the job is accepted.
    digest: Sha256 | None = None

    @field_validator("ref")
    @classmethod
    def _ref(cls, value: str) -> str:
        return str(Ref.parse(value))


class DataSource(Wire):
    """One of several datasets of a training."""

    #: Digest of the dataset.
    data: Sha256
    #: The name that it was given by, with its number: "reviews@v2"; kept if the job's namespace calls it so.
    data_name: Annotated[DataName | None, Field(exclude_if=lambda value: value is None)] = None
    #: Its share of the rows of an epoch, against those of the others; None: all of its rows come once.
    weight: Annotated[float, Field(gt=0, le=1e6)] | None = None


class TrainingRequest(Wire):
    """Train an adapter over `base` on `data`, or on several datasets."""

    kind: Literal["training"] = "training"
    adapter: str
    base: BaseChoice
    #: Digest of the dataset.
    data: Sha256
    #: The name that it was given by, with its number: "reviews@v2"; kept if the job's namespace calls it so.
    data_name: Annotated[DataName | None, Field(exclude_if=lambda value: value is None)] = None
    #: All datasets, if there are several; `data` and `data_name` are the first's.
    sources: Annotated[
        Annotated[list[DataSource], Field(min_length=2, max_length=MOST_SOURCES)] | None,
        Field(exclude_if=lambda value: value is None),
    ] = None
    eval_data: Sha256 | None = None
    #: The name that it was given by, with its number: "reviews@v2"; kept if the job's namespace calls it so.
    eval_data_name: Annotated[DataName | None, Field(exclude_if=lambda value: value is None)] = None
    spec: TrainingSpec = TrainingSpec()
    checkpoint: CheckpointPolicy = CheckpointPolicy()
    #: The checkpoint of another job with the same base, data and spec to start from.
    from_checkpoint: CheckpointRef | None = None
    #: The version whose matrices the training starts with; base, method and LoRA configuration are its own.
    parent: Annotated[ParentChoice | None, Field(exclude_if=lambda value: value is None)] = None
    #: The date that chat templates are given, at each attempt. None: the day on which the job is accepted.
    template_date: Annotated[Day | None, Field(exclude_if=lambda value: value is None)] = None
    #: The version whose training is repeated, with everything that it was made from.
    like: Annotated[RecordedTraining | None, Field(exclude_if=lambda value: value is None)] = None

    @field_validator("adapter")
    @classmethod
    def _name(cls, value: str) -> str:
        return parse_name(value)

    @model_validator(mode="after")
    def _sources_go_together(self) -> TrainingRequest:
        if self.sources is not None:
            if self.sources[0].data != self.data:
                raise ValueError("data is not the first of sources")
            if len({source.data for source in self.sources}) < len(self.sources):
                raise ValueError("two of sources are the same dataset; give it once, with a weight")
            if len({source.weight is None for source in self.sources}) > 1:
                raise ValueError("either each of sources has a weight, or none has")
        return self

    @property
    def digests(self) -> list[str]:
        """The digests of all datasets that are trained on."""
        return [self.data] if self.sources is None else [source.data for source in self.sources]


#: The most targets of one evaluation.
MOST_TARGETS = 64


class EvaluationTarget(Wire):
    """What is evaluated: a version (ref) or a bare base. Exactly one of the two."""

    ref: str | None = None
    base: BaseChoice | None = None
    #: Why the registry added it, if it was not in the request: as the bare base of a requested version, or as the
    #: version of the same name that is in production. Ignored in requests.
    beside: Annotated[
        Annotated[Literal["base", "production"], Open] | None, Field(exclude_if=lambda value: value is None)
    ] = None

    @model_validator(mode="after")
    def _one(self) -> EvaluationTarget:
        if (self.ref is None) == (self.base is None):
            raise ValueError("an evaluation target is either a ref or a base, not both")
        if self.ref is not None:
            Ref.parse(self.ref)
        return self

    @property
    def label(self) -> str:
        """How results refer to it: "code-review@v3", or "base:ID"."""
        return self.ref if self.ref is not None else f"base:{self.base.id}" if self.base is not None else ""


class EvaluationRequest(Wire):
    """Score every target on the same rows."""

    kind: Literal["evaluation"] = "evaluation"
    targets: Annotated[list[EvaluationTarget], Field(min_length=1, max_length=MOST_TARGETS)]
    #: Whether to score only these targets. Otherwise the bare base of each version is scored too, and the version of
    #: its name that is in production when the job is accepted.
    only: Annotated[bool, Field(exclude_if=lambda value: not value)] = False
    #: Digest of the dataset.
    data: Sha256
    #: The name that it was given by, with its number: "reviews@v2"; kept if the job's namespace calls it so.
    data_name: Annotated[DataName | None, Field(exclude_if=lambda value: value is None)] = None
    spec: EvaluationSpec = EvaluationSpec()
    #: The date that chat templates are given, unless the version was trained with another. None: the day on which
    #: the job is accepted.
    template_date: Annotated[Day | None, Field(exclude_if=lambda value: value is None)] = None
    #: Whether to compute scores again that are already recorded.
    again: Annotated[bool, Field(exclude_if=lambda value: not value)] = False


class MergeRequest(Wire):
    """Merge a version into its base."""

    kind: Literal["merge"] = "merge"
    ref: str
    spec: MergeSpec = MergeSpec()
    #: The name under which the merged model becomes a version, in the namespace of `ref`. None: it doesn't become a
    #: version, and is kept for its job.
    register_as: Annotated[str | None, Field(exclude_if=lambda value: value is None)] = None

    @field_validator("ref")
    @classmethod
    def _ref(cls, value: str) -> str:
        return str(Ref.parse(value))

    @field_validator("register_as")
    @classmethod
    def _name(cls, value: str | None) -> str | None:
        return None if value is None else parse_name(value)

    @model_validator(mode="after")
    def _can_be_held_against_its_base(self) -> MergeRequest:
        if self.register_as is not None and self.spec.quantize is not None:
            raise ValueError(
                f"a model in {self.spec.quantize} can't be registered, since its tensors are not those of the base; register it "
                "without quantize, or write it to a folder"
            )
        return self


class PreviewJobRequest(Wire):
    """Show what a training over `base` would learn from rows, or what the training of the version `of` has learnt from
    its own.
    """

    kind: Literal["preview"] = "preview"
    #: The version whose rows are shown. Its base is pinned, and `data` is the dataset that its record names.
    of: str | None = None
    #: A registered base.
    base: BaseChoice | None = None
    #: Digest of the dataset.
    data: Sha256
    #: The name that it was given by, with its number: "reviews@v2"; kept if the job's namespace calls it so.
    data_name: Annotated[DataName | None, Field(exclude_if=lambda value: value is None)] = None
    loss_on: Literal["completion", "assistant", "all"] | None = None
    #: Which columns of the data are which keys of a row, as in training.
    columns: Annotated[Columns | None, Field(exclude_if=lambda value: value is None)] = None
    #: Longest row in tokens.
    max_length: Annotated[int, Field(ge=1, le=1_048_576)] = 1024
    #: How many rows to show, from the first.
    rows: Annotated[int, Field(ge=1, le=MOST_JOB_ROWS)] = 3
    #: Show only this row, counted from 1.
    row: Annotated[int, Field(ge=1, le=10**12)] | None = None
    #: The date that chat templates are given. None: the day on which the job is accepted.
    template_date: Annotated[Day | None, Field(exclude_if=lambda value: value is None)] = None
    #: What the training holds, or held, out of its rows, as in its spec: rows are counted among the others.
    holdout: Annotated[Annotated[float, Field(gt=0, lt=1)] | None, Field(exclude_if=lambda value: value is None)] = None
    holdout_by: Annotated[str | None, Field(max_length=200, exclude_if=lambda value: value is None)] = None
    holdout_seed: Annotated[int, Field(ge=0, le=2**32 - 1, exclude_if=lambda value: value == 0)] = 0

    @model_validator(mode="after")
    def _over_a_base(self) -> PreviewJobRequest:
        if self.of is None and self.base is None:
            raise ValueError("a preview needs a base or a version")
        if self.of is not None:
            Ref.parse(self.of)
        return self


#: The request of a job; each kind has its own.
JobRequest = Annotated[
    TrainingRequest | EvaluationRequest | MergeRequest | PreviewJobRequest | CombineRequest, Field(discriminator="kind")
]
#: The requests of the kinds of job that this release knows.
REQUESTS: dict[str, type[Wire]] = {
    request.model_fields["kind"].default: request for request in get_args(get_args(JobRequest)[0])
}
JOB_KINDS: tuple[str, ...] = tuple(REQUESTS)
