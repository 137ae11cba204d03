"""The manifest of a folder of files, and where each file's bytes are."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from sdk.pulling.transfer import hash_file
from sdk.schemas.manifest import Manifest, ManifestFile


def pack(
    folder: Path, *, kind: Literal["merged", "checkpoint"], base_fingerprint: str
) -> tuple[Manifest, dict[str, Path]]:
    """Return the manifest of the files in `folder`, and their paths by SHA-256."""
    files = []
    sources = {}
    for path in sorted(folder.iterdir()):
        sha256, size = hash_file(path)
        files.append(ManifestFile(path=path.name, size_bytes=size, sha256=sha256))
        sources[sha256] = path
    return Manifest(kind=kind, base_fingerprint=base_fingerprint, files=files), sources
