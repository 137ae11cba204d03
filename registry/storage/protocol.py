"""The contract of every storage, and the types that it uses."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol
from urllib.parse import urlsplit, urlunsplit

from registry.storage.errors import StorageError

#: How many bytes are read or written at once; a blob is never held in memory whole.
CHUNK_BYTES = 1024 * 1024
#: For how many seconds a location can be used if the store signs it.
DEFAULT_EXPIRY_S = 900
#: Larger blobs are sent in parts of this size; S3 accepts none below 5 MiB, and at most 10,000 of them.
DEFAULT_PART_BYTES = 64 * 1024 * 1024
MAX_PARTS = 10_000

#: A digest, and after a dot the upload that brought the bytes.
_NAME = re.compile(r"[0-9a-f]{64}(\.[0-9a-f]{32})?")


def blob_key(name: str) -> str:
    """Return the key of a blob from its name in storage: its digest, or `DIGEST.UPLOAD` with 32 digits for the upload.

    Each upload has a name of its own, so that a digest alone gives nobody another's bytes, a retry is harmless, and no
    name can climb out.

    >>> blob_key("ab" * 32)
    'blobs/sha256/ab/abababababababababababababababababababababababababababababababab'

    Raises StorageError for any other text.
    """
    if _NAME.fullmatch(name) is None:
        raise StorageError(
            "A blob's name is its whole SHA-256, 64 lower-case hexadecimal digits, and may end with that of its upload."
        )
    return f"blobs/sha256/{name[:2]}/{name}"


def sha256_of(name: str) -> str:
    """Return the digest in a blob's name. Raises StorageError."""
    blob_key(name)
    return name[:64]


def is_name(text: str) -> bool:
    """Say whether the last part of a key is a blob's name, and not a half-written file's."""
    return _NAME.fullmatch(text) is not None


@dataclass(frozen=True)
class Location:
    """Where a client finds a blob or sends it, without asking the registry again. A signed one is a credential.

    To send, `http:` takes one PUT of exactly the bytes that the digest names; 200, 201 and 412 (it is there already) all
    mean that the blob is stored. `file:` is the final path, in a folder that exists: write a file next to it named
    `<path>.partial-<random>`, fsync it and rename it, so that a half-written file never has the name. To read, `http:`
    answers a GET with an ETag, and takes one `Range` together with `If-Match`.
    """

    #: `file:`, `http:` or `https:`.
    url: str
    #: Headers that the request must carry as they are; the signature covers them.
    headers: dict[str, str] = field(default_factory=dict)
    #: For how many seconds from now the URL can be used; None means for ever.
    expires_in_s: int | None = None

    def __repr__(self) -> str:
        # Locations end up in logs and tracebacks, whose readers must not be able to use them.
        parts = urlsplit(self.url)
        url = urlunsplit(parts._replace(query="…" if parts.query else ""))
        return f"{type(self).__name__}(url={url!r}, headers={sorted(self.headers)}, expires_in_s={self.expires_in_s})"


@dataclass(frozen=True)
class S3Options:
    """How to use a bucket. Keys that are left out are found where boto3 looks for them."""

    endpoint_url: str | None = None
    #: The endpoint in presigned URLs, if clients reach the store by another name.
    public_endpoint_url: str | None = None
    region: str | None = None
    #: Whether the bucket is in the URL's path or before its host.
    addressing_style: Literal["path", "virtual", "auto"] = "path"
    #: Whether boto3 adds the CRC32 that several stores refuse.
    checksum_mode: Literal["when_required", "when_supported"] = "when_required"
    #: "AES256", "aws:kms" or "aws:kms:dsse"; None: the bucket's default.
    encryption: str | None = None
    kms_key_id: str | None = None
    #: The account that must own the bucket, so that a bucket of the same name elsewhere is never used.
    bucket_owner: str | None = None
    #: How long to wait for one answer, with all tries, in seconds.
    deadline_s: float = 9.0
    #: How long bytes that are read or written may pause, in seconds.
    stall_s: float = 30.0
    #: How many threads of this process may wait for the store at a time.
    at_once: int = 32
    access_key: str | None = None
    secret_key: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class BlobStat:
    """What the store says about one blob."""

    size_bytes: int
    #: The digest, if the store itself has computed it from the bytes; None if only reading them could tell.
    sha256: str | None
    #: When the blob was stored, in UTC.
    modified_at: datetime


class Storage(Protocol):
    """Blobs by their names, each of which contains its SHA-256. Every method raises StorageError for what is not a
    name.
    """

    #: The size of a part of a blob that is sent in parts; smaller blobs are sent at once. None: all blobs are.
    part_bytes: int | None

    def put_location(self, name: str, size_bytes: int) -> Location:
        """Return where a client sends the blob. Doesn't say whether it exists already."""

    def begin_parts(self, name: str) -> str:
        """Begin to receive a blob in parts; return an id for the other calls."""

    def part_location(self, name: str, parts_id: str, number: int, sha256: str, size_bytes: int) -> Location:
        """Return where a client sends part `number`, from 1 on; the location is bound to the part's SHA-256 and
        size.
        """

    def sent_parts(self, name: str, parts_id: str) -> dict[int, int]:
        """Return number and size of the parts that have arrived. Raises BlobMissing once they were joined or swept."""

    def join_parts(self, name: str, parts_id: str, digests: Mapping[int, str]) -> None:
        """Join exactly the parts whose SHA-256 by number are `digests` to the blob; if the blob exists, it stays as it
        is.

        Doesn't verify the whole. Raises BlobMissing like `sent_parts`.
        """

    def get_location(self, name: str) -> Location:
        """Return where a client reads the blob. Doesn't check whether it exists: the read will tell."""

    def stat(self, name: str) -> BlobStat | None:
        """Return size and age of a blob, or None if there is none."""

    def open(self, name: str) -> AbstractContextManager[Iterator[bytes]]:
        """Open a blob for reading once, in chunks of at most CHUNK_BYTES. Raises BlobMissing."""

    def read_part(self, name: str, begin: int, end: int) -> bytes:
        """Return the bytes [begin, end) of a blob, which should be few; fewer if it ends before. Raises BlobMissing."""

    def put(self, name: str, size_bytes: int, chunks: Iterator[bytes]) -> None:
        """Store a blob from here, after verifying its size and digest. Repeating it is harmless.

        Raises BlobCorrupt, and stores nothing, if the bytes are different.
        """

    def delete(self, name: str) -> None:
        """Remove a blob. Harmless if there is none."""

    def list(self) -> Iterator[str]:
        """Yield the name of every blob, in ascending order. Half-written files are not listed."""

    def sweep(self, older_than_s: float, *, keep: Collection[str] = (), dry_run: bool = False) -> int:
        """Remove what interrupted uploads have left if it is older than this; return how many pieces were removed.

        Parts of `keep`, by what `begin_parts` returned, stay. A dry run removes nothing and returns the same.
        """

    def check(self) -> None:
        """Check that the store can be reached and used. Raises StorageUnavailable."""

    def close(self) -> None:
        """Close connections. The storage can't be used afterwards."""
