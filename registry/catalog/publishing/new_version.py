"""What will become a version: what its publisher says, for whom, and what its files are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from registry.catalog.bases.finding import KnownBase
from registry.catalog.versions.finding import space_of
from registry.principal import Principal
from sdk.formats.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from sdk.schemas.catalog import JobRef, Publication
from sdk.schemas.claims import AboutFile
from sdk.schemas.manifest import ManifestFile

#: The parts of a version's record that are only stated by whoever pushes it.
_CLAIMS = ("dataset", "libraries", "method", "metrics", "quantization", "training")


class ParentEdge(NamedTuple):
    """One parent of a version."""

    parent_pk: int
    relation: str
    weight: float | None


class Past(NamedTuple):
    """What is recorded of the version that another one is a copy of."""

    version_pk: int
    ref: str
    #: Fields of a publication.
    record: dict[str, Any]
    #: Which of it was only stated by whoever made the version.
    reported: list[str] | None
    #: What the version was made from, and the edge to the version itself.
    edges: list[ParentEdge]


class NewClaims(NamedTuple):
    """What will be claimed of a version."""

    text: str
    file: AboutFile
    #: The key that this registry lists and that has signed it.
    key_id: str | None
    bundle: str | None


class Ancestry(NamedTuple):
    """What a version is based on: its base, and what it was made from."""

    base: KnownBase
    parents: list[ParentEdge]


@dataclass(frozen=True)
class NewVersion:
    """One publication. `reported` are the parts that somebody stated, and that were not derived from its bytes or its
    job.
    """

    publication: Publication
    who: Principal
    job: JobRef | None
    reported: list[str] | None
    #: If it is a copy.
    past: Past | None = None
    #: If a folder tells of it what nobody here knows.
    claims: NewClaims | None = None
    #: If signed claims add to its record: the same without them, for a version that exists already and keeps its own.
    unclaimed: NewVersion | None = None

    @cached_property
    def digest(self) -> str:
        """The identity of its files and their base."""
        return self.publication.manifest.digest

    @cached_property
    def namespace(self) -> str:
        """The namespace of its adapter."""
        return space_of(self.publication.adapter)

    @property
    def config(self) -> ManifestFile:
        """Its adapter_config.json."""
        return self._file(CONFIG_FILE)

    @property
    def weights(self) -> ManifestFile:
        """Its adapter_model.safetensors."""
        return self._file(WEIGHTS_FILE)

    def _file(self, path: str) -> ManifestFile:
        return next(file for file in self.publication.manifest.files if file.path == path)


def claims_of(publication: Publication) -> list[str]:
    """The parts of a version's record that are only stated by whoever pushes it."""
    return [name for name in _CLAIMS if getattr(publication, name)]
