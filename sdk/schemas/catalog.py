"""Bases, adapters, versions and aliases, as sent over the API; and what a search finds."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from sdk.formats.refs import parse_name
from sdk.formats.tensor_shapes import shapes_fault
from sdk.schemas.artifacts import SignedManifest
from sdk.schemas.lora_config import LoraConfig, QuantizationRecipe
from sdk.schemas.manifest import Manifest, ManifestFile
from sdk.schemas.sent_claims import SentClaims
from sdk.schemas.training_report import DatasetUse
from sdk.schemas.version_records import TrainingRecord
from sdk.schemas.wire import IF_ANY, IF_SET, JsonScalar, Open, Sha256, Wire

BaseId = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")]


def _require_shapes(tensors: dict[str, list[int]]) -> dict[str, list[int]]:
    if (fault := shapes_fault(tensors)) is not None:
        raise ValueError(fault)
    return tensors


class BaseRegistration(Wire):
    """A base as described by whoever registers it, for a namespace. Two with the same fingerprint are one base."""

    id: BaseId
    #: A namespace, "-" for names without one, "*" for all. None: all, if the caller is an admin of all; else "-", or
    #: the first in which the caller may write.
    namespace: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    #: The hub's commit, or None for a folder.
    revision: Annotated[str, Field(max_length=100)] | None = None
    fingerprint: Sha256
    weights_digest: Sha256
    architecture: Annotated[str, Field(max_length=200)]
    #: `file:///…`, or `hf://org/name@commit`; None if only uploaded files should be used.
    location: Annotated[str, Field(max_length=4000)] | None = None
    #: The base's config.json.
    config: dict[str, Any] = {}
    #: Tensor name to shape, from the weight files' headers. Not needed if the files are sent, since they have it.
    tensors: Annotated[dict[str, list[int]], AfterValidator(_require_shapes)] = {}
    size_bytes: Annotated[int, Field(ge=0)] = 0
    #: Exactly the files that were hashed; together with the config they prove the fingerprint.
    manifest: Manifest | None = None
    #: The session in which these files were sent; None if they stay where they are.
    upload: str | None = None


class BaseView(Wire):
    """A base as a namespace knows it."""

    id: str
    #: The base's namespace; "-" for names without one, "*" if it is published for all.
    namespace: str = "*"
    revision: str | None
    fingerprint: str
    weights_digest: str
    architecture: str
    location: str | None
    uploaded: bool
    #: Where its config and shapes come from: "claimed" by whoever registered it, "hashed" by a worker, or "derived"
    #: from its bytes by the registry.
    facts: str = "claimed"
    size_bytes: int
    created_at: datetime
    config: dict[str, Any] | None = None
    #: The fingerprint that had this id in the namespace until now.
    replaces: str | None = None


class BaseSelector(Wire):
    """One base of a namespace, by its id or at least 12 digits of its fingerprint."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    #: "*" for the one that is published for all. None: the only namespace of the caller's as an admin that has it.
    namespace: Annotated[str, Field(min_length=1, max_length=64)] | None = None


class BaseFix(BaseSelector):
    """An admin's corrections to a base; anything left out stays as it is."""

    id: BaseId | None = None
    #: "" removes it.
    location: Annotated[str, Field(max_length=4000)] | None = None
    #: Let other files be sent for it.
    forget_files: bool = False


class BaseBrief(Wire):
    """A base as a version names it."""

    id: str
    revision: str | None
    fingerprint: str
    weights_digest: str
    architecture: str


class Parent(Wire):
    """A version that another one was made from."""

    ref: str
    relation: Annotated[Literal["continued-from", "combined-from", "merged-from", "copied-from"], Open]
    weight: float | None = None


class JobRef(Wire):
    """The attempt that made something."""

    id: str
    attempt: int


#: How an adapter was trained.
Method = Literal["qlora", "lora", "unknown"]
#: What may be unknown about an adapter that was trained elsewhere.
Unknown = Literal["base_revision", "quantization", "dataset", "training", "libraries"]
Tags = Annotated[
    dict[
        Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$")],
        Annotated[str, Field(max_length=200)],
    ],
    Field(max_length=64, examples=[{"language": "python"}]),
]


class Publication(Wire):
    """Everything that is stated about a version when it is published. What a pusher does not know is None or absent."""

    adapter: Annotated[str, Field(examples=["team/code-review"])]
    #: The session in which its files were sent; None if each of them is in a version that the caller may read.
    upload: Annotated[str, Field(max_length=64)] | None = None
    manifest: Manifest
    lora: LoraConfig
    #: "qlora" trained over a quantised base, "lora" over a 16- or 32-bit one; "unknown" if not stated. None:
    #: "qlora" with a quantisation recipe, "unknown" without one.
    method: Method | None = None
    quantization: QuantizationRecipe | None = None
    dataset: DatasetUse | None = None
    training: dict[str, JsonScalar] | None = None
    metrics: dict[str, float] = {}
    libraries: dict[str, str] = {}
    parents: Annotated[list[Parent], Field(max_length=64)] = []
    tags: Tags = {}
    description: Annotated[str, Field(max_length=4000)] = ""
    unknown: list[Unknown] = []
    #: Over the manifest; needed if the registry accepts only signed versions.
    signature: SignedManifest | None = None
    #: What the folder of a pull tells of the version; it is shown as claimed, and nothing is decided by it.
    claimed: Annotated[SentClaims | None, IF_SET] = None

    @property
    def record(self) -> TrainingRecord:
        """The record of the training."""
        return TrainingRecord.read(self.training)

    @field_validator("adapter")
    @classmethod
    def _name(cls, value: str) -> str:
        return parse_name(value)

    @model_validator(mode="after")
    def _method_fits(self) -> Publication:
        if self.method == "lora" and self.quantization is not None:
            raise ValueError("method 'lora' trains over an unquantised base; leave quantization out, or choose 'qlora'")
        return self


class NoteView(Wire):
    """What somebody wrote about a version after it was published."""

    text: str
    written_by: str
    written_at: datetime


#: The state of what a member of a sweep has kept.
KEPT = "kept"


class VersionView(Wire):
    """A version with its lineage, as `show` prints it; or, in the state "kept", the member of a sweep that may become one."""

    ref: str
    adapter: str
    number: int | None
    digest: str
    state: str
    #: "adapter", or "merged": a model; then `lora` and `method` describe the adapter that was merged into it.
    kind: str
    aliases: list[str]
    tags: dict[str, str]
    description: str
    notes: list[NoteView] = []
    created_by: str
    created_at: datetime
    base: BaseBrief
    lora: LoraConfig
    #: "qlora", "lora", or "unknown" if the pusher did not say.
    method: str
    quantization: QuantizationRecipe | None
    dataset: DatasetUse | None
    #: The record of the training, flat; of a model that was merged or combined, how that was done.
    training: dict[str, JsonScalar] | None
    metrics: dict[str, float]
    parents: list[Parent]
    job: JobRef | None
    libraries: dict[str, str]
    #: Which of this was only stated by whoever made it: a worker, by names such as `training.loss_on`, or a pusher. The
    #: rest was derived from its files or from its job. None: this was not recorded when it was made.
    reported: list[str] | None = None
    #: What was not stated when it was published.
    unknown: list[str]
    #: What admission accepted but people should know.
    warnings: list[str] = []
    #: Why it is in quarantine.
    refusal: str | None = None
    files: list[ManifestFile]

    @property
    def record(self) -> TrainingRecord:
        """The record of the training; nothing is recorded of one that is unknown, or of a merged model."""
        return TrainingRecord.read(self.training)

    @property
    def manifest(self) -> Manifest:
        """The manifest that `digest` is the SHA-256 of."""
        return Manifest.model_validate(
            {"kind": self.kind, "base_fingerprint": self.base.fingerprint, "files": self.files}
        )


class Published(Wire):
    """The version that a publication made, or the existing one with the same manifest."""

    version: VersionView
    existing: bool
    #: How what its folder tells is kept: "claimed", or "signed" by a key that this registry lists. None: it isn't, or nothing was sent.
    claims: Annotated[str | None, IF_SET] = None


class AdapterView(Wire):
    """An adapter in a list."""

    adapter: str
    latest: str | None
    #: "adapter", or "merged" for a name whose versions are merged models.
    kind: str = "adapter"
    versions: int
    base: str | None
    #: The number of versions that are not deleted.
    size_bytes: int
    updated_at: datetime


class VersionCopy(Wire):
    """A request to make a version's bytes one of another adapter too."""

    ref: Annotated[str, Field(max_length=300, examples=["team/code-review@v3"])]
    #: The other adapter.
    adapter: Annotated[str, Field(max_length=1000, examples=["other/code-review"])]
    #: The version's digest, if only that one is meant: an alias may move.
    digest: Sha256 | None = None
    #: Beside the version's own, or in their place.
    tags: Tags = {}
    #: None: the version's.
    description: Annotated[str, Field(max_length=4000)] | None = None

    @field_validator("adapter")
    @classmethod
    def _name(cls, value: str) -> str:
        return parse_name(value)


class VersionMove(Wire):
    """A request to archive, restore, delete or release a version."""

    ref: Annotated[str, Field(max_length=300, examples=["team/code-review@v3"])]
    reason: Annotated[str, Field(max_length=1000)] = ""


class Annotation(Wire):
    """What is added to a version after it was published; anything left out stays as it is."""

    ref: Annotated[str, Field(max_length=300, examples=["team/code-review@v3"])]
    description: Annotated[str, Field(max_length=4000)] | None = None
    #: Tags to set.
    tags: Tags = {}
    #: Keys of tags to remove.
    untag: Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=64)] = []
    #: A note, which is appended and never edited.
    note: Annotated[str, Field(min_length=1, max_length=4000)] | None = None


#: The order of the results; a leading "-" puts the newest or highest first.
SORT_KEYS = ("-created", "created", "name", "rank", "-rank")


class BaseName(Wire):
    """Which base a version is over."""

    id: str
    revision: str | None
    fingerprint: str


class LoraSize(Wire):
    """The part of a LoRA configuration that distinguishes versions for people."""

    rank: int
    alpha: float
    #: Sorted names as in `adapter_config.json`.
    target_modules: list[str]


class VersionBrief(Wire):
    """A version in a list: what `show` prints of it, shortened."""

    ref: str
    adapter: str
    number: int | None
    digest: str
    state: str
    kind: str
    aliases: list[str]
    tags: dict[str, str]
    created_by: str
    created_at: datetime
    base: BaseName
    lora: LoraSize
    #: "qlora", "lora", or "unknown" if the pusher did not say.
    method: str
    #: What was measured when it was made: loss, eval_loss …
    metrics: dict[str, float]
    #: If the order is by a score: its value; None if it has no such score.
    score: Annotated[float | None, IF_SET] = None
    #: If the filter names scores: the namespaces that made those of which it was asked.
    scores_of: Annotated[list[str], IF_ANY] = []
