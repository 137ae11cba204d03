"""Blobs in a folder: for one machine, and for a small registry that serves them itself."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self
from urllib.parse import urlencode

from registry.storage.errors import BlobCorrupt, BlobMissing, StorageError, StorageUnavailable
from registry.storage.protocol import (
    CHUNK_BYTES,
    DEFAULT_EXPIRY_S,
    DEFAULT_PART_BYTES,
    BlobStat,
    Location,
    blob_key,
    is_name,
    sha256_of,
)
from registry.storage.signing import MIN_KEY_BYTES, Permission, sign
from sdk.version import API
from sdk.whole_files import give_name, whole_file

#: Where the blobs of a folder behind HTTP are served, below its public URL.
BLOBS_PATH = f"{API}/blobs"

#: What `check` writes.
_PROBE_BYTES = 64 * 1024

_PARTIAL = ".partial-"
_PARTS = ".parts-"
_PARTS_ID = re.compile(r"[0-9a-f]{16}")


class FolderStorage:
    """A folder of blobs. `file:` locations, or signed HTTP ones if it has a public URL and a key."""

    def __init__(
        self,
        root: Path,
        *,
        public_url: str | None = None,
        signing_key: bytes | None = None,
        expires_in_s: int = DEFAULT_EXPIRY_S,
        part_bytes: int = DEFAULT_PART_BYTES,
    ) -> None:
        if not root.is_absolute():
            raise StorageError(f"The storage folder {root} is relative. Name it by its absolute path.")
        if (public_url is None) != (signing_key is None):
            raise StorageError(
                "A folder behind HTTP needs both a public URL (REGISTRY_PUBLIC_URL) and a signing key. Give both."
            )
        if signing_key is not None and len(signing_key) < MIN_KEY_BYTES:
            raise StorageError(f"The signing key is too short. Give at least {MIN_KEY_BYTES} random bytes.")
        self.root = root
        self.signing_key = signing_key
        self._public_url = public_url.rstrip("/") if public_url is not None else None
        self._expires_in_s = expires_in_s
        #: Files that are copied within one machine are not sent in parts.
        self.part_bytes: int | None = None if public_url is None else part_bytes

    def path_of(self, name: str) -> Path:
        """Return the path at which a blob is, or would be."""
        return self.root / blob_key(name)

    def put_location(self, name: str, size_bytes: int) -> Location:
        path = self.path_of(name)
        if self._public_url is None:
            with _as_unavailable(path.parent):
                _make_private(path.parent)
            return Location(url=path.as_uri())
        return self._signed_put(Permission("PUT", name, size_bytes))

    def begin_parts(self, name: str) -> str:
        parts_id = secrets.token_hex(8)
        folder = self._parts_of(name, parts_id)
        with _as_unavailable(folder):
            _make_private(folder.parent)
            folder.mkdir(mode=0o700)
        return parts_id

    def part_location(self, name: str, parts_id: str, number: int, sha256: str, size_bytes: int) -> Location:
        self._parts_of(name, parts_id)
        return self._signed_put(Permission("PUT", name, size_bytes, parts_id, number, sha256_of(sha256)))

    def sent_parts(self, name: str, parts_id: str) -> dict[int, int]:
        folder = self._parts_of(name, parts_id)
        with _as_unavailable(folder, missing=name):
            return {int(path.name): path.stat().st_size for path in folder.iterdir() if path.name.isdecimal()}

    def join_parts(self, name: str, parts_id: str, digests: Mapping[int, str]) -> None:
        folder, path = self._parts_of(name, parts_id), self.path_of(name)
        # Somebody else who waits for the same blob is joining it right now, and has removed the parts.
        with _as_unavailable(path, missing=name):
            # What somebody faster has joined, and perhaps verified, stays.
            with (
                contextlib.suppress(FileExistsError),
                whole_file(path, durable=True, mode=0o600, replace=False) as joined,
            ):
                for number in sorted(digests):
                    with (folder / str(number)).open("rb") as part:
                        shutil.copyfileobj(part, joined, CHUNK_BYTES)
            shutil.rmtree(folder, ignore_errors=True)

    def part_writer(self, permission: Permission) -> BlobWriter:
        """Return a writer for one part. Raises BlobMissing if its parts were joined or swept."""
        folder = self._parts_of(permission.name, permission.parts_id)
        if not folder.is_dir():
            raise BlobMissing(permission.name)
        return BlobWriter(folder / str(permission.part), permission.part_sha256, permission.size_bytes or 0)

    def get_location(self, name: str) -> Location:
        path = self.path_of(name)
        if self._public_url is None:
            return Location(url=path.as_uri())
        return Location(url=self._signed_url(Permission("GET", name)), expires_in_s=self._expires_in_s)

    def stat(self, name: str) -> BlobStat | None:
        path = self.path_of(name)
        try:
            with _as_unavailable(path):
                status = path.stat()
        except FileNotFoundError:
            return None
        # Anyone who can write to the folder could have put other bytes there, so it proves nothing by itself.
        modified_at = datetime.fromtimestamp(status.st_mtime, UTC)
        return BlobStat(size_bytes=status.st_size, sha256=None, modified_at=modified_at)

    @contextmanager
    def open(self, name: str) -> Iterator[Iterator[bytes]]:
        with self.open_file(name) as file:
            yield _chunks_of(file, self.path_of(name))

    def open_file(self, name: str) -> BinaryIO:
        """Open a blob as a file, for reading parts of it. Raises BlobMissing."""
        path = self.path_of(name)
        with _as_unavailable(path, missing=name):
            return path.open("rb", buffering=0)

    def read_part(self, name: str, begin: int, end: int) -> bytes:
        with self.open_file(name) as file, _as_unavailable(self.path_of(name)):
            file.seek(begin)
            return file.read(end - begin)

    def put(self, name: str, size_bytes: int, chunks: Iterator[bytes]) -> None:
        with BlobWriter(self.path_of(name), sha256_of(name), size_bytes) as writer:
            for chunk in chunks:
                writer.write(chunk)
            writer.commit()

    def delete(self, name: str) -> None:
        path = self.path_of(name)
        with _as_unavailable(path):
            path.unlink(missing_ok=True)

    def list(self) -> Iterator[str]:
        for path in self._files():
            if is_name(path.name) and path == self.path_of(path.name):
                yield path.name

    def sweep(self, older_than_s: float, *, keep: Collection[str] = (), dry_run: bool = False) -> int:
        latest_s = time.time() - older_than_s
        swept = 0
        for path in self._files():
            # Another sweep, or the writer itself, may remove the file between any two of these steps.
            with contextlib.suppress(FileNotFoundError):
                if path.name.partition(_PARTS)[2] in keep:
                    continue
                if (_PARTIAL in path.name or _PARTS in path.name) and path.stat().st_mtime < latest_s:
                    if not dry_run:
                        shutil.rmtree(path) if path.is_dir() else path.unlink()
                    swept += 1
        return swept

    def check(self) -> None:
        probe = self.root / f"check{_PARTIAL}{secrets.token_hex(8)}"
        with _as_unavailable(self.root):
            _make_private(self.root)
            try:
                # An empty file can be created even if there is no room for one byte.
                with open(probe, "xb", opener=_private) as file:
                    file.write(bytes(_PROBE_BYTES))
            finally:
                probe.unlink(missing_ok=True)

    def close(self) -> None:
        """Do nothing: a folder has no connections."""

    def _files(self) -> Iterator[Path]:
        top = self.root / "blobs" / "sha256"
        try:
            with _as_unavailable(top):
                shards = sorted(path for path in top.iterdir() if path.is_dir())
        except FileNotFoundError:
            return
        for shard in shards:
            with _as_unavailable(shard):
                files = sorted(shard.iterdir())
            yield from files

    def _parts_of(self, name: str, parts_id: str) -> Path:
        if _PARTS_ID.fullmatch(parts_id) is None:
            raise StorageError("This upload in parts was never started. Start the upload again.")
        path = self.path_of(name)
        return path.with_name(f"{path.name}{_PARTS}{parts_id}")

    def _signed_put(self, permission: Permission) -> Location:
        headers = {"Content-Length": str(permission.size_bytes)}
        return Location(url=self._signed_url(permission), headers=headers, expires_in_s=self._expires_in_s)

    def _signed_url(self, permission: Permission) -> str:
        if self.signing_key is None:
            raise StorageError("A folder without a public URL takes whole files only. Send the file at once.")
        query = sign(self.signing_key, permission, expires_at_s=int(time.time()) + self._expires_in_s)
        return f"{self._public_url}{BLOBS_PATH}/{permission.name}?{urlencode(query)}"


class BlobWriter:
    """Writes one blob next to its name, and gives it the name only if size and digest are right.

    Leaving the block without `commit` removes the bytes again.
    """

    def __init__(self, path: Path, sha256: str, size_bytes: int) -> None:
        self._path = path
        self._sha256 = sha256
        self._size_bytes = size_bytes
        self._written_bytes = 0
        self._hash = hashlib.sha256()
        self._partial = path.with_name(f"{path.name}{_PARTIAL}{secrets.token_hex(8)}")
        with _as_unavailable(path):
            _make_private(path.parent)
            self._file = os.fdopen(_private(self._partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb", buffering=0)

    def write(self, chunk: bytes) -> None:
        """Append bytes. Raises BlobCorrupt as soon as there are more than promised."""
        self._written_bytes += len(chunk)
        if self._written_bytes > self._size_bytes:
            raise BlobCorrupt(
                f"More than the {self._size_bytes} bytes announced for sha256 {self._sha256} were sent. "
                "Has the file grown since it was hashed? Upload it again."
            )
        self._hash.update(chunk)
        view = memoryview(chunk)
        with _as_unavailable(self._path):
            while view:
                view = view[self._file.write(view) :]

    def commit(self) -> None:
        """Verify what was written and give it its name. Raises BlobCorrupt."""
        check_bytes(self._sha256, self._size_bytes, self._hash.hexdigest(), self._written_bytes)
        with _as_unavailable(self._path):
            self._file.close()
            # Replacing a blob of the same name is harmless: these bytes have just been proven to be the right ones.
            give_name(self._partial, self._path, durable=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._partial.unlink(missing_ok=True)


def check_bytes(sha256: str, size_bytes: int, found_sha256: str, found_bytes: int) -> None:
    """Raise BlobCorrupt if the bytes found are not those promised."""
    if found_bytes != size_bytes:
        raise BlobCorrupt(
            f"{found_bytes} bytes were sent for sha256 {sha256}, announced with {size_bytes}. Upload the file again."
        )
    if found_sha256 != sha256:
        raise BlobCorrupt(
            f"The bytes sent for sha256 {sha256} have sha256 {found_sha256}. "
            "Has the file changed since it was hashed? Upload it again."
        )


def _private(path: str | Path, flags: int) -> int:
    """Open a new file that only its owner can read: its bytes are none of other users' business."""
    return os.open(path, flags, 0o600)


def _make_private(folder: Path) -> None:
    """Make a folder that only its owner can use, if it doesn't exist."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)


def _chunks_of(file: BinaryIO, path: Path) -> Iterator[bytes]:
    while True:
        with _as_unavailable(path):
            chunk = file.read(CHUNK_BYTES)
        if not chunk:
            return
        yield chunk


@contextmanager
def _as_unavailable(path: Path, *, missing: str | None = None) -> Iterator[None]:
    """Turn errors of the disk into StorageUnavailable, except for a missing file, whose meaning the caller knows."""
    try:
        yield
    except FileNotFoundError:
        if missing is not None:
            raise BlobMissing(missing) from None
        raise
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        advice = "Free some space, for example with `adapterctl gc`." if full else "Check that the registry may use it."
        raise StorageUnavailable(f"Storage at {path} can't be used: {error.strerror or error}. {advice}") from error
