"""The cache: blobs by digest, folders by manifest digest, file hashes. Shared by processes; nothing in it is edited.

Layout under `ADAPTERCTL_CACHE`::

    blobs/ab/abcdef…          a file by its SHA-256
    versions/DIGEST/          a version's folder, complete once it has its name: links to blobs, and its manifest
    refs/…                    what refs named when they were pulled, by registry
    bases/FINGERPRINT/        a base that a worker fetched
    hashes/…                  SHA-256 of local files by path, size, times and inode
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sdk.config import cache_path
from sdk.contents import HasFiles
from sdk.errors import disk_explained
from sdk.schemas.refs import parse_digest
from sdk.transfer import OnBytes, hash_file, place

#: A version's manifest within its folder.
MARKER = ".adapterctl/manifest.json"
#: Nothing in the cache is edited.
READ_ONLY = 0o444


class Cache:
    """One cache folder. Its paths are made of whole digests only; another text raises BadRefError."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or cache_path()
        #: Digests of blobs that this process has just fetched, and hashed as they came.
        self.fresh: set[str] = set()

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
    def lock(self, name: str, *, shared: bool = False) -> Iterator[None]:
        """Wait until no other process holds `name`, or with `shared` none holds it alone; two pulls download once."""
        with disk_explained("locking the cache"):
            file = self._lock_file(name)
            try:
                fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
                yield
            finally:
                os.close(file)

    @contextmanager
    def lock_if_free(self, name: str) -> Iterator[bool]:
        """Hold `name` alone for the block, or say False where another process holds it."""
        with disk_explained("locking the cache"):
            file = self._lock_file(name)
            try:
                yield _try_lock(file)
            finally:
                os.close(file)

    def _lock_file(self, name: str) -> int:
        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return os.open(folder / hashlib.sha256(name.encode()).hexdigest()[:32], os.O_RDWR | os.O_CREAT, 0o600)

    def has_blob(self, sha256: str, size_bytes: int) -> bool:
        """Tell whether a blob is there, whole as far as its size says."""
        try:
            return self.blob(sha256).stat().st_size == size_bytes
        except FileNotFoundError:
            return False

    def has_version(self, contents: HasFiles) -> bool:
        """Tell whether a version's folder is there, whole as far as its files' sizes say."""
        folder = self.version(contents.digest)
        try:
            return (folder / MARKER).is_file() and all(
                (folder / file.path).lstat().st_size == file.size_bytes for file in contents.files
            )
        except (FileNotFoundError, NotADirectoryError):
            return False

    def is_unaltered(self, path: Path, sha256: str) -> bool:
        """Tell whether a file that lies here has the digest that it is kept under; one that was touched is hashed again."""
        try:
            return self.sha256_of(path) == sha256
        except (FileNotFoundError, NotADirectoryError):
            return False

    def used(self, folder: Path) -> None:
        """Remember that a version or base was used now: its marker's time says so."""
        marker = folder / MARKER
        # Another user's cache may be read and not written to.
        with contextlib.suppress(OSError):
            os.utime(marker if marker.exists() else folder)

    def link(self, sha256: str, target: Path) -> None:
        """Put a blob into a folder of the cache: by a link where the file system has them, else by a copy."""
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(self.blob(sha256), target)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP):
                raise
            place(self.blob(sha256), target)
            target.chmod(READ_ONLY)

    def remove_folder(self, folder: Path) -> None:
        """Take away a version's or base's folder, at once: what is left of it has no name that anybody looks for."""
        if folder.is_dir():
            leaving = folder.with_name(f".{folder.name[:100]}.partial-{os.urandom(4).hex()}")
            folder.rename(leaving)
            shutil.rmtree(leaving, ignore_errors=True)

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
            partial = entry.with_name(f"{entry.name}.partial-{os.urandom(4).hex()}")
            partial.write_text(json.dumps({**known, "sha256": sha256}))
            partial.replace(entry)
        return sha256

    def size_bytes(self) -> int:
        """What the whole cache takes."""
        return sum(path.stat().st_size for path in self.root.rglob("*") if path.is_file())


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


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
