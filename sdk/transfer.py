"""Bytes straight to and from storage, hashed as they stream: `file:` locations are copied, `http(s):` ones streamed.

A file gets its name only when it is whole: it is written as `.partial-…`, flushed to disk, then renamed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn
from urllib.parse import unquote, urlsplit

from sdk.errors import Conflict, NotFound, Unavailable, VerificationFailed, disk_explained
from sdk.schemas.artifacts import Transfer

if TYPE_CHECKING:
    import httpx

CHUNK_BYTES = 1024 * 1024

#: Called with the number of bytes that just passed.
OnBytes = Callable[[int], None]


def _ignore(_count: int) -> None:
    """Nobody watches."""


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


def read_json(path: Path) -> Any:
    """Return what a JSON file of somebody else holds. Raises OSError; ValueError, also for NaN and lone surrogates."""
    text = path.read_bytes().decode("utf-8-sig")
    value = json.loads(text, parse_constant=_no_constant)
    # An escape may spell half a surrogate pair, which has no bytes in UTF-8.
    json.dumps(value, ensure_ascii=False).encode()
    return value


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


@contextmanager
def written_whole(target: Path) -> Iterator[IO[bytes]]:
    """A new file that gets its name at the end of the block, and leaves nothing where the block fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name[:100]}.partial-{secrets.token_hex(4)}")
    try:
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def send(source: Path, to: Transfer, on_bytes: OnBytes = _ignore) -> None:
    """Send a file to where `to` says. Raises Unavailable, VerificationFailed where the store refuses the bytes."""
    parts = urlsplit(to.url)
    if parts.scheme == "file":
        target = Path(unquote(parts.path))
        if target.exists():
            return
        with disk_explained("storing an artifact"):
            _copy_checked(source, target, to.sha256, on_bytes)
        return
    _put(source, to, on_bytes)


def fetch(origin: Transfer, target: Path, on_bytes: OnBytes = _ignore) -> None:
    """Fetch a blob into `target`; a byte that differs leaves nothing there.

    Raises VerificationFailed for wrong bytes, NotFound for bytes that are gone, Unavailable.
    """
    parts = urlsplit(origin.url)
    with disk_explained(f"writing {target.name}"):
        if parts.scheme == "file":
            source = Path(unquote(parts.path))
            if not source.is_file():
                raise NotFound(
                    f"the bytes of {origin.sha256[:12]} are gone from the registry's storage; restore them from a backup"
                )
            _copy_checked(source, target, origin.sha256, on_bytes)
        else:
            _get(origin, target, on_bytes)


def _copy_checked(source: Path, target: Path, sha256: str, on_bytes: OnBytes) -> None:
    hasher = hashlib.sha256()
    with source.open("rb") as reader, written_whole(target) as writer:
        while chunk := reader.read(CHUNK_BYTES):
            hasher.update(chunk)
            writer.write(chunk)
            on_bytes(len(chunk))
        _check(sha256, hasher.hexdigest(), source.name)


def _check(expected: str, found: str, name: str) -> None:
    if found != expected:
        raise VerificationFailed(
            f"{name} has the SHA-256 {found}, not {expected}; nothing was kept. Try again, then tell an admin"
        )


def _put(source: Path, to: Transfer, on_bytes: OnBytes) -> None:
    def body() -> Iterator[bytes]:
        with source.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
                on_bytes(len(chunk))

    headers = {**to.headers, "Content-Length": str(to.size_bytes)}
    with _storage_explained(), _storage_client() as client:
        response = client.put(to.url, content=body(), headers=headers)
    if response.status_code == 412:
        # The store has this blob already: another upload of the same bytes, or an answer that was lost, came first.
        return
    if response.status_code in (400, 403):
        raise VerificationFailed(
            f"the storage refused {source.name} (HTTP {response.status_code}); was it changed meanwhile? Try again"
        )
    if not response.is_success:
        raise Unavailable(f"the storage answered HTTP {response.status_code} to {source.name}; try again")


def _get(origin: Transfer, target: Path, on_bytes: OnBytes) -> None:
    import httpx

    hasher = hashlib.sha256()
    with (
        _storage_explained(),
        _storage_client() as client,
        client.stream("GET", origin.url, headers=origin.headers) as response,
    ):
        if response.status_code == 404:
            raise NotFound(f"the bytes of {origin.sha256[:12]} are gone from the registry's storage; tell an admin")
        if not response.is_success:
            raise Unavailable(f"the storage answered HTTP {response.status_code} for {target.name}; try again")
        with written_whole(target) as writer:
            try:
                for chunk in response.iter_raw(CHUNK_BYTES):
                    hasher.update(chunk)
                    writer.write(chunk)
                    on_bytes(len(chunk))
            except httpx.HTTPError as error:
                raise Unavailable(f"the connection broke while {target.name} was fetched; try again") from error
            _check(origin.sha256, hasher.hexdigest(), target.name)


class _WithoutQueries(logging.Filter):
    """Takes the query from URLs that httpx logs: of a presigned one it is the credential."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record's arguments; every record passes."""
        import httpx

        if isinstance(record.args, tuple):
            record.args = tuple(
                str(arg.copy_with(query=None)) if isinstance(arg, httpx.URL) else arg for arg in record.args
            )
        return True


_without_queries = _WithoutQueries()


def _storage_client() -> httpx.Client:
    import httpx

    # A filter that is there already is not added again.
    logging.getLogger("httpx").addFilter(_without_queries)
    return httpx.Client(timeout=httpx.Timeout(60, connect=10), follow_redirects=False)


@contextmanager
def _storage_explained() -> Iterator[None]:
    """Turn httpx's errors into ours, without the URL: a presigned one is a credential."""
    import httpx

    try:
        yield
    except httpx.HTTPError as error:
        raise Unavailable(
            f"the storage can't be reached ({type(error).__name__}); check the network, then try again"
        ) from None


def place(source: Path, target: Path) -> None:
    """Copy a cached file to a user's folder, sharing the blocks where the file system can; never a link."""
    if target.exists():
        raise Conflict(f"{target} is there already")
    with source.open("rb") as reader, target.open("xb") as writer:
        try:
            _clone(reader.fileno(), writer.fileno())
        except OSError:
            while chunk := reader.read(CHUNK_BYTES):
                writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())


def _clone(reader: int, writer: int) -> None:
    import fcntl

    # FICLONE of Linux: both files share their blocks until one of them is written to.
    fcntl.ioctl(writer, 0x40049409, reader)
