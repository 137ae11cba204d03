"""Where the bytes are: blobs under keys made from their SHA-256, in a folder or in an S3 bucket.

>>> import hashlib, tempfile
>>> from contextlib import closing
>>> with tempfile.TemporaryDirectory() as root, closing(open_storage(f"file://{root}")) as storage:
...     sha256 = hashlib.sha256(b"weights").hexdigest()
...     storage.put(sha256, 7, iter([b"wei", b"ghts"]))
...     with storage.open(sha256) as chunks:
...         print(b"".join(chunks), storage.stat(sha256).size_bytes)
b'weights' 7
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from registry.storage.errors import BlobCorrupt, BlobMissing, StorageError, StorageUnavailable
from registry.storage.folder import FolderStorage
from registry.storage.protocol import (
    CHUNK_BYTES,
    DEFAULT_EXPIRY_S,
    DEFAULT_PART_BYTES,
    MAX_PARTS,
    BlobStat,
    Location,
    S3Options,
    Storage,
    blob_key,
)

__all__ = [
    "CHUNK_BYTES",
    "DEFAULT_EXPIRY_S",
    "DEFAULT_PART_BYTES",
    "MAX_PARTS",
    "BlobCorrupt",
    "BlobMissing",
    "BlobStat",
    "FolderStorage",
    "Location",
    "S3Options",
    "Storage",
    "StorageError",
    "StorageUnavailable",
    "blob_key",
    "open_storage",
]


def open_storage(
    url: str,
    *,
    s3: S3Options | None = None,
    public_url: str | None = None,
    signing_key: bytes | None = None,
    expires_in_s: int = DEFAULT_EXPIRY_S,
    part_bytes: int = DEFAULT_PART_BYTES,
) -> Storage:
    """Return the storage that `url` names: `file:///absolute/folder` or `s3://bucket[/prefix]`.

    A folder with `public_url` and `signing_key` gives out signed HTTP locations under that URL (see
    `registry.storage.views`), without them `file:` locations. `s3` says how a bucket is used. Nothing is contacted here:
    `Storage.check` does that. Raises StorageError for a URL of another shape.
    """
    parts = urlsplit(url)
    if parts.query or parts.fragment:
        raise StorageError("A storage URL has no query and no fragment. Write file:///folder or s3://bucket/prefix.")
    if parts.scheme == "file":
        if parts.netloc not in {"", "localhost"} or not parts.path.startswith("/"):
            raise StorageError(
                "A file: storage URL names an absolute folder. Write it with three slashes: file:///data."
            )
        root = Path(unquote(parts.path))
        return FolderStorage(
            root, public_url=public_url, signing_key=signing_key, expires_in_s=expires_in_s, part_bytes=part_bytes
        )
    if parts.scheme == "s3":
        if not parts.netloc or "@" in parts.netloc or ":" in parts.netloc:
            raise StorageError(
                "An s3: storage URL names a bucket and nothing before it. Write s3://bucket/prefix, "
                "and give the keys as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            )
        # boto3 takes a third of a second to import, which no folder should pay for.
        from registry.storage.s3 import S3Storage

        return S3Storage(
            parts.netloc,
            prefix=parts.path.strip("/"),
            options=s3,
            expires_in_s=expires_in_s,
            part_bytes=part_bytes,
        )
    raise StorageError(f"Storage of the kind {parts.scheme!r} is unknown. Write file:///folder or s3://bucket/prefix.")
