"""The one contract of every storage, and the values that it speaks in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Protocol, Self
from urllib.parse import urlsplit, urlunsplit

from registry.storage.errors import StorageError

#: Bytes read or written at once; a blob is never held whole.
CHUNK_BYTES = 1024 * 1024
#: Seconds for which a location can be used where the store signs it.
DEFAULT_EXPIRY_S = 900

_SHA256 = re.compile(r"[0-9a-f]{64}")


def blob_key(sha256: str) -> str:
    """Return the key of a blob: made from its digest, so that a retry is harmless and no name can climb out.

    >>> blob_key("ab" * 32)
    'blobs/sha256/ab/abababababababababababababababababababababababababababababababab'

    Raises StorageError for anything but 64 lower-case hexadecimal digits.
    """
    if _SHA256.fullmatch(sha256) is None:
        raise StorageError("A digest is 64 lower-case hexadecimal digits. Give the file's whole SHA-256.")
    return f"blobs/sha256/{sha256[:2]}/{sha256}"


def digest_of_name(name: str) -> str | None:
    """Return the digest that the last part of a key is, or None where it is not one (a half-written file)."""
    return name if _SHA256.fullmatch(name) else None


@dataclass(frozen=True)
class Location:
    """Where a client finds a blob or sends it, without asking the registry again. A signed one is a credential."""

    #: `file:`, `http:` or `https:`.
    url: str
    #: Headers that the request must carry as they are; the signature covers them.
    headers: dict[str, str] = field(default_factory=dict)
    #: Seconds from now in which the URL can be used; None means for ever.
    expires_in_s: int | None = None

    def __repr__(self) -> str:
        # Locations end up in logs and tracebacks. Whoever reads those must not be able to use them.
        parts = urlsplit(self.url)
        url = urlunsplit(parts._replace(query="…" if parts.query else ""))
        return f"{type(self).__name__}(url={url!r}, headers={sorted(self.headers)}, expires_in_s={self.expires_in_s})"


@dataclass(frozen=True, repr=False)
class PutLocation(Location):
    """Where one blob is sent.

    `http:` takes one PUT of exactly the bytes that the digest names; 200, 201 and 412 (it is there already) all mean
    that the blob is stored. `file:` is the final path, in a folder that exists: write a neighbour named
    `<path>.partial-<random>`, fsync it and rename it, so that a half-written file never has the name.
    """


@dataclass(frozen=True, repr=False)
class GetLocation(Location):
    """Where one blob is read. `http:` answers a GET with an ETag, and takes one `Range` together with `If-Match`."""


@dataclass(frozen=True)
class BlobStat:
    """What the store says of one blob."""

    size_bytes: int
    #: The digest where the store itself has computed it from the bytes; None where only reading them could tell.
    sha256: str | None
    #: When the blob was stored, in UTC.
    modified_at: datetime


class Storage(Protocol):
    """Blobs by their SHA-256. Every method raises StorageError for a digest that is none."""

    def put_location(self, sha256: str, size_bytes: int) -> PutLocation:
        """Return where a client sends the blob. Says nothing on whether it is there already."""

    def get_location(self, sha256: str) -> GetLocation:
        """Return where a client reads the blob. Does not look whether it is there: the read will say so."""

    def stat(self, sha256: str) -> BlobStat | None:
        """Return size and age of a blob, or None where there is none."""

    def open(self, sha256: str) -> AbstractContextManager[Iterator[bytes]]:
        """Open a blob for reading once, in chunks of at most CHUNK_BYTES. Raises BlobMissing."""

    def put(self, sha256: str, size_bytes: int, chunks: Iterator[bytes]) -> None:
        """Store a blob from here, after its size and digest have been verified. Again is harmless.

        Raises BlobCorrupt, and stores nothing, where the bytes are others.
        """

    def delete(self, sha256: str) -> None:
        """Remove a blob. Harmless where there is none."""

    def list(self) -> Iterator[str]:
        """Yield the digest of every blob, in ascending order. What is half written is not listed."""

    def sweep(self, older_than_s: float, *, dry_run: bool = False) -> int:
        """Remove what interrupted uploads have left that is older than this; return how many pieces that were.

        A dry run removes nothing and returns the same.
        """

    def check(self) -> None:
        """Make sure that the store can be reached and used. Raises StorageUnavailable."""

    def close(self) -> None:
        """Let go of connections. The storage is not used afterwards."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
