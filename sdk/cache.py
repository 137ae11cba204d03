"""The cache: blobs by digest, folders by manifest digest, file hashes. Shared by processes; nothing in it is edited.

Layout under `ADAPTERCTL_CACHE`::

    blobs/ab/abcdef…          a file by its SHA-256
    versions/DIGEST/          a version's folder, complete once it has its name
    bases/FINGERPRINT/        a base that a worker fetched
    hashes/…                  SHA-256 of local files by path, size, times and inode
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sdk.config import cache_path
from sdk.errors import disk_explained
from sdk.schemas.refs import parse_digest
from sdk.transfer import OnBytes, hash_file


class Cache:
    """One cache folder. Its paths are made of whole digests only; another text raises BadRefError."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or cache_path()

    def blob(self, sha256: str) -> Path:
        """Where a blob lies, or will."""
        return self.root / "blobs" / parse_digest(sha256)[:2] / sha256

    @property
    def versions(self) -> Path:
        """Where versions' folders lie."""
        return self.root / "versions"

    def version(self, digest: str) -> Path:
        """Where a version's folder lies, or will."""
        return self.versions / parse_digest(digest)

    @property
    def bases(self) -> Path:
        """Where fetched bases lie."""
        return self.root / "bases"

    def base(self, fingerprint: str) -> Path:
        """Where a fetched base lies, or will."""
        return self.bases / parse_digest(fingerprint)

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Wait until no other process holds `name`; two pulls of one version download once."""
        with disk_explained("locking the cache"):
            folder = self.root / "locks"
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / hashlib.sha256(name.encode()).hexdigest()[:32]).open("ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                yield

    @contextmanager
    def new_folder(self, target: Path) -> Iterator[Path]:
        """A folder that gets the name `target` at the end of the block, and is gone where the block fails."""
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name[:100]}.partial-{secrets.token_hex(4)}")
        partial.mkdir()
        try:
            yield partial
            partial.rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def sha256_of(self, path: Path, on_bytes: OnBytes | None = None) -> str:
        """Return a local file's SHA-256, from the cache where path, size, times and inode are as they were."""
        known = _identity(path)
        entry = self.root / "hashes" / hashlib.sha256(str(path).encode("utf-8", "surrogateescape")).hexdigest()
        try:
            found = json.loads(entry.read_text())
            if {key: found.get(key) for key in known} == known:
                sha256: str = found["sha256"]
                return sha256
        except (OSError, ValueError, AttributeError, KeyError):
            # No entry, or a damaged one: the file is hashed again.
            pass
        sha256, _ = hash_file(path) if on_bytes is None else hash_file(path, on_bytes)
        if _identity(path) != known:
            # It was written to meanwhile: what was hashed is neither the old file nor the new one.
            return sha256
        with disk_explained("remembering a file's digest"):
            entry.parent.mkdir(parents=True, exist_ok=True)
            partial = entry.with_name(f"{entry.name}.partial-{secrets.token_hex(4)}")
            partial.write_text(json.dumps({**known, "sha256": sha256}))
            partial.replace(entry)
        return sha256

    def size_bytes(self) -> int:
        """What the whole cache takes."""
        return sum(path.stat().st_size for path in self.root.rglob("*") if path.is_file())


def _identity(path: Path) -> dict[str, str | int]:
    """What a file's hash is remembered by. The change time is of it: a copy may set any other time back."""
    stat = path.stat()
    return {
        "path": str(path),
        "size": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
        "ctime_ns": stat.st_ctime_ns,
        "inode": stat.st_ino,
    }
