"""The cache: blobs by digest, folders by manifest digest, file hashes. Shared by processes; nothing in it is edited.

Layout under `ADAPTERCTL_CACHE`::

    blobs/ab/abcdef…          a file by its SHA-256
    versions/DIGEST/          a version's folder, complete once it has its name: links to blobs, and its manifest
    refs/…                    what refs named when they were pulled, by registry
    aliases/…                 the newest signed statements of aliases that were seen, by registry
    bases/FINGERPRINT/        a base that a worker fetched
    quantized/FINGERPRINT/…   a base's 4-bit weights, as a worker quantised them
    hashes/…                  SHA-256 of local files by path, size, times and inode
    leases/DIGEST/            who uses a version's or base's folder beyond the life of a process; `leases.py` has more
    hub/…                     what a worker fetched from a model hub without a token
    jobs/…                    the working folders of a worker's attempts
    engines/KEY/              an engine program that waits for the next question
    names/KEY.json            names that somebody has seen, which shells complete, by registry and token

Only its owner can read it: versions, rows and bases may be private even if the user's other files are not.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sdk.config import cache_path
from sdk.errors import disk_explained
from sdk.file_locks import locked, locked_if_free
from sdk.formats.manifest import HasFiles
from sdk.formats.refs import parse_digest
from sdk.pulling.transfer import OnBytes, hash_file, place
from sdk.whole_files import sync, write_whole

#: A version's manifest within its folder.
MARKER = ".adapterctl/manifest.json"
#: Nothing in the cache is edited.
READ_ONLY = 0o444
_PRIVATE = 0o700
_PARTS = (
    "aliases",
    "bases",
    "blobs",
    "engines",
    "hashes",
    "hub",
    "jobs",
    "leases",
    "locks",
    "names",
    "quantized",
    "refs",
    "versions",
)


class Cache:
    """One cache folder. Its paths are built only from whole digests; any other text raises BadRefError."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or cache_path()
        #: Digests of blobs that this process has just fetched, and hashed as they arrived.
        self.fresh: set[str] = set()
        self._is_private = False

    def blob(self, sha256: str) -> Path:
        """Where a blob is, or will be."""
        return self.root / "blobs" / parse_digest(sha256)[:2] / sha256

    @property
    def versions(self) -> Path:
        """Where versions' folders are."""
        return self.root / "versions"

    def version(self, digest: str) -> Path:
        """Where a version's folder is, or will be."""
        return self.versions / parse_digest(digest)

    @property
    def bases(self) -> Path:
        """Where fetched bases are."""
        return self.root / "bases"

    def base(self, fingerprint: str) -> Path:
        """Where a fetched base is, or will be."""
        return self.bases / parse_digest(fingerprint)

    def quantized(self, fingerprint: str) -> Path:
        """Where a base's 4-bit weights are, or will be: a folder for each recipe, device and set of libraries.

        The lock of the base covers these too.
        """
        return self.quantized_bases / parse_digest(fingerprint)

    @property
    def quantized_bases(self) -> Path:
        """Where the folders with the 4-bit weights of all bases are."""
        return self.root / "quantized"

    @property
    def engines(self) -> Path:
        """Where the files of engine programs are that wait for the next question."""
        return self.root / "engines"

    @property
    def parts(self) -> list[Path]:
        """The folders that belong to the cache; anything else in its root is somebody else's."""
        return [self.root / part for part in _PARTS]

    @property
    def hub(self) -> Path:
        """Where public repositories of a model hub are, in the hub's own layout."""
        return self.root / "hub"

    @contextmanager
    def lock(self, name: str, *, shared: bool = False) -> Iterator[None]:
        """Hold `name` for the block, exclusively unless `shared`; wait for other processes that prevent this.

        So two pulls of the same version download it once.
        """
        with disk_explained("locking the cache"), locked(self._lock_file(name), shared=shared):
            yield

    @contextmanager
    def lock_if_free(self, name: str) -> Iterator[bool]:
        """Hold `name` exclusively for the block, or yield False if another process holds it."""
        with disk_explained("locking the cache"), locked_if_free(self._lock_file(name)) as free:
            yield free

    def keep_private(self) -> None:
        """Ensure, before anything is written, that only the owner can read the cache.

        A new cache is created private. If others can read its root, because the user made it, the parts are made
        private; anything that belongs to another user is left as it is.
        """
        if self._is_private:
            return
        with disk_explained("preparing the cache"):
            self.root.mkdir(parents=True, exist_ok=True, mode=_PRIVATE)
            if stat.S_IMODE(self.root.stat().st_mode) & ~_PRIVATE:
                for part in _PARTS:
                    _close(self.root / part)
        self._is_private = True

    def _lock_file(self, name: str) -> Path:
        self.keep_private()
        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / hashlib.sha256(name.encode()).hexdigest()[:32]

    def has_blob(self, sha256: str, size_bytes: int) -> bool:
        """Tell whether a blob is there, complete by its size."""
        try:
            return self.blob(sha256).stat().st_size == size_bytes
        except FileNotFoundError:
            return False

    def has_version(self, contents: HasFiles) -> bool:
        """Tell whether a version's folder is there, complete by its files' sizes."""
        folder = self.version(contents.digest)
        try:
            return (folder / MARKER).is_file() and all(
                (folder / file.path).lstat().st_size == file.size_bytes for file in contents.files
            )
        except (FileNotFoundError, NotADirectoryError):
            return False

    def is_unaltered(self, path: Path, sha256: str) -> bool:
        """Tell whether a cached file has the digest that it is stored under; if it was touched, it is hashed again."""
        try:
            return self.sha256_of(path) == sha256
        except (FileNotFoundError, NotADirectoryError):
            return False

    def used(self, folder: Path) -> None:
        """Record that a version, base or file was used just now, as the time of its marker, or its own without one."""
        marker = folder / MARKER
        # Another user's cache may be readable, but not writable.
        with contextlib.suppress(OSError):
            os.utime(marker if marker.exists() else folder)

    def link(self, sha256: str, target: Path) -> None:
        """Put a blob into a folder of the cache: as a hard link if that is possible, else as a copy."""
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(self.blob(sha256), target)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP):
                raise
            place(self.blob(sha256), target)
            target.chmod(READ_ONLY)
            sync(target)

    def remove_folder(self, folder: Path) -> None:
        """Remove a version's or base's folder in one step: it is first given a name that nothing looks for."""
        if folder.is_dir():
            leaving = folder.with_name(f".{folder.name[:100]}.partial-{os.urandom(4).hex()}")
            folder.rename(leaving)
            shutil.rmtree(leaving, ignore_errors=True)

    def sha256_of(self, path: Path, on_bytes: OnBytes | None = None) -> str:
        """Return a local file's SHA-256, from the cache if path, size, times and inode are unchanged."""
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
            # It was written to meanwhile: the hash may be of neither the old content nor the new one.
            return sha256
        self.keep_private()
        with disk_explained("remembering a file's digest"):
            entry.parent.mkdir(parents=True, exist_ok=True)
            write_whole(entry, json.dumps({**known, "sha256": sha256}), durable=False)
        return sha256

    def size_bytes(self) -> int:
        """The size of the whole cache."""
        return sum(path.stat().st_size for path in self.root.rglob("*") if path.is_file())


def _close(folder: Path) -> None:
    """Create a private folder, or make it private if it exists and is ours."""
    # Another user's cache may be readable, but not writable.
    with contextlib.suppress(PermissionError):
        folder.mkdir(exist_ok=True, mode=_PRIVATE)
        # A link is left alone, since the folder that it leads to has another purpose.
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) & ~_PRIVATE:
            folder.chmod(_PRIVATE)


def _identity(path: Path) -> dict[str, str | int]:
    """What identifies a file whose hash is remembered. The change time is part of it, since a copy can't set that."""
    found = path.stat()
    return {
        "path": str(path),
        "size": found.st_size,
        "mtime_ns": found.st_mtime_ns,
        "ctime_ns": found.st_ctime_ns,
        "inode": found.st_ino,
    }
