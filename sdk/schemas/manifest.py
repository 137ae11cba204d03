"""The manifest: which bytes a version consists of, and over which base. Its SHA-256 is the version's digest.

It contains no time, name, job or card, so that equal trainings have equal digests.
"""

from __future__ import annotations

import hashlib
from typing import Annotated

from pydantic import Field, field_validator

from sdk.formats.manifest import FORMAT, MOST_FILES, Format, Kind, check_apart
from sdk.formats.manifest import check_path as check_path
from sdk.schemas.wire import Sha256, Wire, canonical_json


class ManifestFile(Wire):
    """One file of a version."""

    path: str
    size_bytes: Annotated[int, Field(ge=0)]
    sha256: Sha256

    @field_validator("path")
    @classmethod
    def _path_is_plain(cls, value: str) -> str:
        return check_path(value)


class Manifest(Wire):
    """The canonical description of an adapter's, or a merged model's, bytes."""

    format: Format = FORMAT
    kind: Kind = "adapter"
    base_fingerprint: Sha256
    #: Sorted by path; no two paths are equal, even ignoring case.
    files: Annotated[list[ManifestFile], Field(min_length=1, max_length=MOST_FILES)]

    @field_validator("files")
    @classmethod
    def _files_are_sorted(cls, files: list[ManifestFile]) -> list[ManifestFile]:
        check_apart([file.path for file in files])
        return sorted(files, key=lambda file: file.path)

    def canonical(self) -> bytes:
        """Return the bytes that the digest is computed over."""
        return canonical_json(self.model_dump())

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical bytes, 64 hex digits."""
        return hashlib.sha256(self.canonical()).hexdigest()

    @property
    def size_bytes(self) -> int:
        """The sum of the files' sizes."""
        return sum(file.size_bytes for file in self.files)
