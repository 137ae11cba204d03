"""The requests of jobs: one for each kind, `JobRequest` is their union; and which fields they have, and use.

A reader ignores fields that it doesn't know, and would do something other than what was asked for. So workers say with
each claim which fields they know, and a job is only given to one that knows all that it uses. Both are derived from the
schemas: a field that is added to one is known from then on.

>>> sorted(used_fields(MergeRequest.model_validate({"ref": "a@v1", "spec": {"dtype": "bfloat16"}})))
['merge.spec', 'merge.spec.dtype']
>>> "merge.spec.dtype" in known_fields(), "merge.spec.of_tomorrow" in known_fields()
(True, False)
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import BaseModel, Field, field_validator, model_validator

from sdk.formats.refs import MemberRef, Ref, parse_name, parse_ref_or_member
from sdk.schemas.combination import CombineRequest
from sdk.schemas.evaluation import EvaluationSpec, MergeSpec
from sdk.schemas.preview import MOST_JOB_ROWS, RowsShown
from sdk.schemas.recorded import Day, RecordedTraining
from sdk.schemas.training import TrainingSpec
from sdk.schemas.wire import IF_ANY, IF_SET, Open, Sha256, Wire

if TYPE_CHECKING:
    from sdk.schemas.catalog import BaseBrief, BaseView

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
    base_namespace: Annotated[Annotated[str, Field(min_length=1, max_length=64)] | None, IF_SET] = None
    published: Annotated[bool, IF_ANY] = False

    @classmethod
    def of(cls, base: BaseView | BaseBrief) -> BaseChoice:
        """Return the choice of exactly this base."""
        return cls(id=base.id, revision=base.revision, fingerprint=base.fingerprint)


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


class SweepPlace(Wire):
    """Which member of which sweep a training is. Only the registry asks for it."""

    sweep: Annotated[str, Field(min_length=1, max_length=32)]
    number: Annotated[int, Field(ge=1, le=1_000_000)]
    #: The shares of its steps after which it asks whether it goes on.
    rungs: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], Field(max_length=10), IF_ANY] = []
    #: How many threads it computes with, so that it ends with the same bytes on machines with more cores. None: as many as the
    #: machine has on which it begins; a checkpoint goes on with these.
    threads: Annotated[Annotated[int, Field(ge=1, le=1024)] | None, IF_SET] = None


class DataSource(Wire):
    """One of several datasets of a training."""

    #: Digest of the dataset.
    data: Sha256
    #: The name that it was given by, with its number: "reviews@v2"; kept if the job's namespace calls it so.
    data_name: Annotated[DataName | None, IF_SET] = None
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
    data_name: Annotated[DataName | None, IF_SET] = None
    #: All datasets, if there are several; `data` and `data_name` are the first's.
    sources: Annotated[Annotated[list[DataSource], Field(min_length=2, max_length=MOST_SOURCES)] | None, IF_SET] = None
    eval_data: Sha256 | None = None
    #: The name that it was given by, with its number: "reviews@v2"; kept if the job's namespace calls it so.
    eval_data_name: Annotated[DataName | None, IF_SET] = None
    #: Rows by which nothing is chosen, so that they tell how good the version is.
    test_data: Annotated[Sha256 | None, IF_SET] = None
    test_data_name: Annotated[DataName | None, IF_SET] = None
    spec: TrainingSpec = TrainingSpec()
    checkpoint: CheckpointPolicy = CheckpointPolicy()
    #: The checkpoint of another job with the same base, data and spec to start from.
    from_checkpoint: CheckpointRef | None = None
    #: The version whose matrices the training starts with; base, method and LoRA configuration are its own.
    parent: Annotated[ParentChoice | None, IF_SET] = None
    #: The date that chat templates are given, at each attempt. None: the day on which the job is accepted.
    template_date: Annotated[Day | None, IF_SET] = None
    #: The version whose training is repeated, with everything that it was made from.
    like: Annotated[RecordedTraining | None, IF_SET] = None
    #: The sweep that it is a member of.
    sweep: Annotated[SweepPlace | None, IF_SET] = None

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
    def is_weighted(self) -> bool:
        """Whether rows are drawn from several datasets by weight."""
        return self.sources is not None and self.sources[0].weight is not None

    @property
    def digests(self) -> list[str]:
        """The digests of all datasets that are trained on."""
        return [self.data] if self.sources is None else [source.data for source in self.sources]


#: The most targets of one evaluation.
MOST_TARGETS = 64


class EvaluationTarget(Wire):
    """What is evaluated: a version, or a member of a sweep (ref), or a bare base. Exactly one of the two."""

    ref: str | None = None
    base: BaseChoice | None = None
    #: SHA-256 of a member's manifest; the registry pins it when the job is accepted.
    digest: Annotated[Sha256 | None, IF_SET] = None
    #: Why the registry added it, if it was not in the request: as the bare base of a requested version, or as the
    #: version of the same name that is in production. Ignored in requests.
    beside: Annotated[Annotated[Literal["base", "production"], Open] | None, IF_SET] = None

    @model_validator(mode="after")
    def _one(self) -> EvaluationTarget:
        if (self.ref is None) == (self.base is None):
            raise ValueError("an evaluation target is either a ref or a base, not both")
        member = self.ref is not None and isinstance(parse_ref_or_member(self.ref), MemberRef)
        if self.digest is not None and not member:
            raise ValueError("only a member of a sweep is given with its digest; leave digest out")
        return self

    @property
    def label(self) -> str:
        """How results refer to it: "code-review@v3", "sweep:ID/3" or "base:ID"."""
        return self.ref if self.ref is not None else f"base:{self.base.id}" if self.base is not None else ""


class EvaluationRequest(Wire):
    """Score every target on the same rows."""

    kind: Literal["evaluation"] = "evaluation"
    targets: Annotated[list[EvaluationTarget], Field(min_length=1, max_length=MOST_TARGETS)]
    #: Whether to score only these targets. Otherwise the bare base of each version is scored too, and the version of
    #: its name that is in production when the job is accepted.
    only: Annotated[bool, IF_ANY] = False
    #: Digest of the dataset.
    data: Sha256
    #: The name that it was given by, with its number: "reviews@v2"; kept if the job's namespace calls it so.
    data_name: Annotated[DataName | None, IF_SET] = None
    spec: EvaluationSpec = EvaluationSpec()
    #: The date that chat templates are given, unless the version was trained with another. None: the day on which
    #: the job is accepted.
    template_date: Annotated[Day | None, IF_SET] = None
    #: Whether to compute scores again that are already recorded.
    again: Annotated[bool, IF_ANY] = False


class MergeRequest(Wire):
    """Merge a version into its base."""

    kind: Literal["merge"] = "merge"
    ref: str
    spec: MergeSpec = MergeSpec()
    #: The name under which the merged model becomes a version, in the namespace of `ref`. None: it doesn't become a
    #: version, and is kept for its job.
    register_as: Annotated[str | None, IF_SET] = None

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


class PreviewJobRequest(RowsShown):
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
    data_name: Annotated[DataName | None, IF_SET] = None
    #: How many rows to show, from the first.
    rows: Annotated[int, Field(ge=1, le=MOST_JOB_ROWS)] = 3
    #: The date that chat templates are given. None: the day on which the job is accepted.
    template_date: Annotated[Day | None, IF_SET] = None

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


@cache
def known_fields() -> frozenset[str]:
    """Return the dotted path of every field of every kind of request, the kind first."""
    return frozenset(
        f"{kind}.{path}" for kind, request in REQUESTS.items() for path in _fields_of(request) if path != "kind"
    )


def used_fields(request: Any) -> set[str]:
    """Return the paths of the fields that a request uses: those that have another value than if nobody had set them.

    Fields that every request of the kind has are left out: whoever knows the kind knows them.
    """
    return {f"{request.kind}.{path}" for path in _used_in(request)}


def _fields_of(kind: type[BaseModel]) -> Iterator[str]:
    for name, field in kind.model_fields.items():
        yield name
        for inner in _models_in(field.annotation):
            yield from (f"{name}.{path}" for path in _fields_of(inner))


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the records that a value of this type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


def _used_in(record: BaseModel) -> Iterator[str]:
    for name, field in type(record).model_fields.items():
        value = getattr(record, name)
        if not field.is_required():
            if value == field.get_default(call_default_factory=True, validated_data={}):
                continue
            yield name
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, BaseModel):
                yield from (f"{name}.{path}" for path in _used_in(inner))
