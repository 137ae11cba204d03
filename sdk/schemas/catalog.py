"""Bases, adapters, versions and aliases as they travel."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from sdk.schemas.manifest import Manifest, ManifestFile
from sdk.schemas.refs import parse_alias, parse_name
from sdk.schemas.training import DatasetUse, JsonScalar, LoraConfig, QuantizationRecipe
from sdk.schemas.wire import Sha256, Wire

BaseId = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")]


class BaseRegistration(Wire):
    """A base as its finder describes it. Two with the same fingerprint are one base."""

    id: BaseId
    #: The hub's commit, or None for a folder.
    revision: Annotated[str, Field(max_length=100)] | None = None
    fingerprint: Sha256
    weights_digest: Sha256
    architecture: Annotated[str, Field(max_length=200)]
    #: `file:///…`, or `hf://org/name@commit`; None where only uploaded files are to be used.
    location: Annotated[str, Field(max_length=4000)] | None = None
    #: The base's config.json.
    config: dict[str, Any]
    #: Tensor name to shape, as the weight files' headers say.
    tensors: dict[str, list[int]] = {}
    size_bytes: Annotated[int, Field(ge=0)] = 0
    #: All files, where they were uploaded.
    manifest: Manifest | None = None
    upload: str | None = None


class BaseView(Wire):
    """A base as the registry holds it."""

    id: str
    revision: str | None
    fingerprint: str
    weights_digest: str
    architecture: str
    location: str | None
    uploaded: bool
    size_bytes: int
    created_at: datetime
    config: dict[str, Any] | None = None


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
    relation: Literal["continued-from", "combined-from", "merged-from"]
    weight: float | None = None


class JobRef(Wire):
    """The attempt that made something."""

    id: str
    attempt: int


class Publication(Wire):
    """Everything that is said of a version at its birth. What a pusher does not know is None or absent."""

    adapter: str
    upload: str
    manifest: Manifest
    lora: LoraConfig
    quantization: QuantizationRecipe | None = None
    dataset: DatasetUse | None = None
    training: dict[str, JsonScalar] | None = None
    metrics: dict[str, float] = {}
    libraries: dict[str, str] = {}
    parents: list[Parent] = []
    tags: dict[str, str] = {}
    description: Annotated[str, Field(max_length=4000)] = ""

    @field_validator("adapter")
    @classmethod
    def _name(cls, value: str) -> str:
        return parse_name(value)


class VersionView(Wire):
    """A version with its lineage, as `show` prints it."""

    ref: str
    adapter: str
    number: int | None
    digest: str
    state: str
    kind: str
    aliases: list[str]
    tags: dict[str, str]
    description: str
    created_at: datetime
    base: BaseBrief
    lora: LoraConfig
    quantization: QuantizationRecipe | None
    dataset: DatasetUse | None
    training: dict[str, JsonScalar] | None
    metrics: dict[str, float]
    parents: list[Parent]
    job: JobRef | None
    libraries: dict[str, str]
    files: list[ManifestFile]

    @property
    def manifest(self) -> Manifest:
        """The manifest that `digest` is the SHA-256 of."""
        return Manifest.model_validate(
            {
                "kind": self.kind,
                "base_fingerprint": self.base.fingerprint,
                "files": [file.model_dump() for file in self.files],
            }
        )


class Published(Wire):
    """The version that a publication made, or the existing one with the same manifest."""

    version: VersionView
    existing: bool


class AdapterView(Wire):
    """An adapter in a list."""

    adapter: str
    latest: str | None
    versions: int
    base: str | None
    updated_at: datetime


class AliasMove(Wire):
    """A request to move an alias by compare-and-set."""

    adapter: str
    alias: str
    #: The version that it is to name.
    number: Annotated[int, Field(ge=1)]
    #: The version that it must name now; None: whichever.
    expect: Annotated[int, Field(ge=0)] | None = None
    reason: Annotated[str, Field(max_length=1000)] = ""

    @field_validator("adapter")
    @classmethod
    def _name(cls, value: str) -> str:
        return parse_name(value)

    @field_validator("alias")
    @classmethod
    def _alias(cls, value: str) -> str:
        return parse_alias(value)


class AliasView(Wire):
    """An alias and the version that it names."""

    adapter: str
    alias: str
    ref: str
    number: int
    moved_at: datetime
    moved_by: str
