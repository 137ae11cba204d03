"""What a version consists of, read without pydantic: a pull takes less time than importing that.

`sdk.schemas.manifest.Manifest` keeps the same rules on the wire; a test feeds every kind of manifest to both, and to
everything that reads stored ones. Either can be used if only `files`, `digest` and `canonical` are needed.

>>> check_path("tokenizer/vocab.json")
'tokenizer/vocab.json'
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, get_args

from sdk.formats.canonical_json import canonical_json

_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=@-]{0,199}")


def check_path(path: str) -> str:
    """Return `path` if it is a relative POSIX path of plain segments; it can't leave the folder, hide a file or collide.

    Raises ValueError otherwise.
    """
    segments = path.split("/")
    if len(path) > 1000 or len(segments) > 16 or not all(_SEGMENT.fullmatch(segment) for segment in segments):
        raise ValueError(f"{path[:80]!a} is not a file path allowed in a version")
    return path


Format = Literal["adapterctl.manifest.v1"]
#: The kinds of things that have a manifest.
Kind = Literal["adapter", "merged", "base", "checkpoint"]
FORMAT: Format = "adapterctl.manifest.v1"
KINDS: tuple[Kind, ...] = get_args(Kind)
MOST_FILES = 10_000
_SHA256 = re.compile(r"[0-9a-f]{64}")


class FileEntry(Protocol):
    """One file of a version."""

    @property
    def path(self) -> str:
        """Its path in the version's folder."""

    @property
    def size_bytes(self) -> int:
        """Its size."""

    @property
    def sha256(self) -> str:
        """Its digest."""


class HasFiles(Protocol):
    """A manifest, whichever class read it."""

    @property
    def kind(self) -> str:
        """The kind of thing that it describes."""

    @property
    def base_fingerprint(self) -> str:
        """The fingerprint of the base that it belongs to, or is."""

    @property
    def files(self) -> Sequence[FileEntry]:
        """Its files, sorted by path."""

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical bytes."""

    @property
    def size_bytes(self) -> int:
        """The sum of the files' sizes."""

    def canonical(self) -> bytes:
        """Return the bytes that the digest is taken over."""


@dataclass(frozen=True)
class File:
    """One file of a version."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Contents:
    """The manifest of a version."""

    kind: str
    base_fingerprint: str
    files: tuple[File, ...]

    @classmethod
    def read(cls, text: bytes) -> Contents:
        """Parse a manifest's JSON. Raises ValueError."""
        try:
            return cls.of(json.loads(text, object_pairs_hook=_once))
        except RecursionError as error:
            raise ValueError("too deep") from error

    @classmethod
    def of(cls, value: Any) -> Contents:
        """Return the manifest that a JSON value describes. Raises ValueError."""
        known = _keys(value, "format", "kind", "base_fingerprint", "files")
        if known["format"] != FORMAT or known["kind"] not in KINDS or not is_sha256(known["base_fingerprint"]):
            raise ValueError("not a manifest of a known format")
        if not isinstance(known["files"], list) or not 0 < len(known["files"]) <= MOST_FILES:
            raise ValueError("no list of files")
        files = sorted((_file(entry) for entry in known["files"]), key=lambda file: file.path)
        check_apart([file.path for file in files])
        return cls(known["kind"], known["base_fingerprint"], tuple(files))

    def canonical(self) -> bytes:
        """Return the bytes that the digest is taken over."""
        return canonical_json(
            {
                "format": FORMAT,
                "kind": self.kind,
                "base_fingerprint": self.base_fingerprint,
                "files": [asdict(file) for file in self.files],
            }
        )

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical bytes, 64 hex digits."""
        return hashlib.sha256(self.canonical()).hexdigest()

    @property
    def size_bytes(self) -> int:
        """The sum of the files' sizes."""
        return sum(file.size_bytes for file in self.files)


def check_apart(paths: Sequence[str]) -> None:
    """Refuse paths that can't be in one folder on every system. Raises ValueError."""
    folded = {path.lower() for path in paths}
    if len(folded) != len(paths):
        raise ValueError("two files of a version have the same path")
    for path in folded:
        parts = path.split("/")
        if any("/".join(parts[:depth]) in folded for depth in range(1, len(parts))):
            raise ValueError(f"{path[:80]!a} is in a folder that is also a file of the version")


def is_sha256(value: Any) -> bool:
    """Whether a JSON value is a whole SHA-256 in lower-case hexadecimal."""
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def is_count(value: Any) -> bool:
    """Whether a JSON value is a number of bytes."""
    return type(value) is int and value >= 0


def _file(value: Any) -> File:
    known = _keys(value, "path", "size_bytes", "sha256")
    if not isinstance(known["path"], str) or not is_count(known["size_bytes"]) or not is_sha256(known["sha256"]):
        raise ValueError("not a file of a version")
    return File(check_path(known["path"]), known["size_bytes"], known["sha256"])


def _keys(value: Any, *keys: str) -> dict[str, Any]:
    if not isinstance(value, dict) or sorted(value) != sorted(keys):
        raise ValueError("fields that a manifest doesn't have")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a field appears twice")
    return found
