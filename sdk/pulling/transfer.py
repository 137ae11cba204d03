"""Bytes straight to and from storage, hashed as they stream: `file:` locations are copied, `http(s):` ones streamed.

A file gets its name only when it is whole, and on the disk.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

from sdk.errors import Conflict, InvalidInput, Unavailable, VerificationFailed, place_explained
from sdk.whole_files import NO_LINKS, give_name, sync, whole_file

if TYPE_CHECKING:
    from logging import LogRecord

    import httpx


CHUNK_BYTES = 1024 * 1024

#: Called with the number of bytes that just passed.
OnBytes = Callable[[int], None]


def _ignore(_count: int) -> None:
    """Do nothing, since nobody watches."""


def hash_file(path: Path, on_bytes: OnBytes = _ignore) -> tuple[str, int]:
    """Return the SHA-256 and the size of a file, read in pieces."""
    hasher = hashlib.sha256()
    size = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            hasher.update(chunk)
            size += len(chunk)
            on_bytes(len(chunk))
    return hasher.hexdigest(), size


def require_inside(folder: Path, name: str) -> Path:
    """Return the path of a file that is to be sent from a folder.

    Raises InvalidInput for a link that leads out of the folder, whatever it leads to: only what lies in the folder is
    sent. In a model hub's cache, each file is such a link into the `blobs` of its repository; those are accepted.
    """
    path = folder / name
    root, target = Path(os.path.realpath(folder)), Path(os.path.realpath(path))
    if not target.is_relative_to(root) and target.parent != _hub_blobs(root):
        raise InvalidInput(
            f"{path} is a link that leads out of its folder, to {target}; replace it with the file itself, then try again",
            param="path",
        )
    return path


def _hub_blobs(folder: Path) -> Path | None:
    """Where the files of `…/models--ORG--NAME/snapshots/COMMIT` lie; None for another folder."""
    for parent in (folder, *folder.parents):
        if parent.parent.name == "snapshots" and parent.parent.parent.name.startswith("models--"):
            return parent.parent.parent / "blobs"
    return None


def read_json(path: Path) -> Any:
    """Return the content of a JSON file that another program wrote.

    Raises OSError; ValueError, also for NaN and lone surrogates.
    """
    text = path.read_bytes().decode("utf-8-sig")
    value = json.loads(text, parse_constant=_no_constant)
    # An escape may spell half a surrogate pair, which has no bytes in UTF-8.
    json.dumps(value, ensure_ascii=False).encode()
    return value


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


@contextmanager
def folder_whole(target: Path, *, durable: bool) -> Iterator[Path]:
    """A new folder that gets the name `target` at the end of the block; if the block fails, it is removed.

    The caller must hold a lock on `target`, since the leftovers of earlier calls that were killed are removed too.
    Raises InvalidInput if there can be no folder in that place.
    """
    stem = f".{target.name[:100]}.partial-"
    with place_explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        for path in target.parent.iterdir():
            if path.name.startswith(stem) and re.fullmatch("[0-9a-f]{8}", path.name[len(stem) :]):
                shutil.rmtree(path, ignore_errors=True)
        partial = target.with_name(f"{stem}{os.urandom(4).hex()}")
        partial.mkdir()
    try:
        yield partial
        give_name(partial, target, durable=durable)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def copy_checked(source: Path, target: Path, sha256: str, on_bytes: OnBytes, name: str | None = None) -> None:
    """Copy a file whose SHA-256 is known; if a byte differs, nothing is left. Raises VerificationFailed.

    The copy shares the file's blocks where the file system can do that, and never is a link to it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as reader, whole_file(target, durable=True) as writer:
        failed: list[OSError] = []
        # Neither copying nor hashing holds the interpreter's lock, so that the copy takes no extra time.
        copying = threading.Thread(target=_copy_into, args=(reader, writer, failed))
        copying.start()
        try:
            found, _ = hash_file(source, on_bytes)
        finally:
            copying.join()
        if failed:
            raise failed[0]
        _check(sha256, found, name or source.name)


def _copy_into(reader: IO[bytes], writer: IO[bytes], failed: list[OSError]) -> None:
    try:
        _clone_or_copy(reader, writer)
    except OSError as error:
        failed.append(error)


def give_over(source: Path, target: Path) -> bool:
    """Let a file that its owner no longer writes to have a second name, without a copy; return whether the file system
    allows that. What has the name `target` already stays.

    The caller removes `source`, and checks what is in `target`.
    """
    if source.is_symlink():
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    sync(source)
    try:
        target.hardlink_to(source)
    except FileExistsError:
        return True
    except OSError as error:
        if error.errno in (*NO_LINKS, errno.EXDEV):
            return False
        raise
    sync(target.parent)
    return True


def _check(expected: str, found: str, name: str) -> None:
    if found != expected:
        raise VerificationFailed(
            f"{name} has the SHA-256 {found}, not {expected}, so nothing was kept. Try again, then tell an admin"
        )


class _WithoutQueries:
    """Removes the query from URLs that httpx logs: in a presigned one it is the credential."""

    def filter(self, record: LogRecord) -> bool:
        """Rewrite the record's arguments; every record passes."""
        import httpx

        if isinstance(record.args, tuple):
            record.args = tuple(
                str(arg.copy_with(query=None)) if isinstance(arg, httpx.URL) else arg for arg in record.args
            )
        return True


_without_queries = _WithoutQueries()


def storage_client(*, tls: bool = True) -> httpx.Client:
    """An HTTP client for the storage, which logs no URL's query; without `tls` it doesn't load certificates."""
    import logging

    import httpx

    # `addFilter` doesn't add a filter twice.
    logging.getLogger("httpx").addFilter(_without_queries)
    return httpx.Client(timeout=httpx.Timeout(60, connect=10), follow_redirects=False, verify=tls)


@contextmanager
def storage_explained() -> Iterator[None]:
    """Turn httpx's errors into ours, without the URL: a presigned one is a credential."""
    import httpx

    try:
        yield
    except httpx.HTTPError as error:
        raise Unavailable(
            f"the storage can't be reached ({type(error).__name__}); check the network, then try again"
        ) from None


def place(source: Path, target: Path) -> None:
    """Copy a cached file to a user's folder, sharing its blocks if possible, but never as a link. Raises Conflict."""
    if target.exists():
        raise Conflict(f"{target} already exists")
    with source.open("rb") as reader, target.open("xb") as writer:
        _clone_or_copy(reader, writer)


def _clone_or_copy(reader: IO[bytes], writer: IO[bytes]) -> None:
    """Fill an empty file with another one's bytes, by sharing its blocks if the file system can do that."""
    try:
        _clone(reader.fileno(), writer.fileno())
    except (OSError, ImportError):
        _copy(reader, writer)


def _copy(reader: IO[bytes], writer: IO[bytes]) -> None:
    """Copy to the end, within the kernel if it can do that."""
    copied = 0
    try:
        while count := os.copy_file_range(reader.fileno(), writer.fileno(), 16 * CHUNK_BYTES):
            copied += count
    except (OSError, AttributeError):
        # Another operating system, or a file system without such copies.
        if copied:
            raise
    if not copied:
        while chunk := reader.read(CHUNK_BYTES):
            writer.write(chunk)


def _clone(reader: int, writer: int) -> None:
    import fcntl

    # FICLONE of Linux: both files share their blocks until one of them is written to.
    fcntl.ioctl(writer, 0x40049409, reader)
