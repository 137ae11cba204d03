"""Blobs in an S3 bucket: any store that checks SigV4 signatures, SHA-256 checksums and `If-None-Match`."""

from __future__ import annotations

import base64
import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from registry.storage.errors import BlobMissing, StorageError, StorageUnavailable
from registry.storage.folder import check_bytes
from registry.storage.protocol import (
    CHUNK_BYTES,
    DEFAULT_EXPIRY_S,
    BlobStat,
    GetLocation,
    PutLocation,
    blob_key,
    digest_of_name,
)

#: S3 takes no more in one PUT, and only a single PUT has a checksum that is the file's own SHA-256.
MAX_PUT_BYTES = 5 * 1024**3
#: A blob sent from here is held in memory up to this size and in a temporary file above it.
_SPOOL_BYTES = 8 * CHUNK_BYTES


class S3Storage:
    """A bucket, or a prefix of one. Locations are presigned URLs that bind size, digest and no-overwrite."""

    def __init__(
        self,
        bucket: str,
        *,
        prefix: str = "",
        endpoint_url: str | None = None,
        public_endpoint_url: str | None = None,
        region: str | None = None,
        access_key: str | None = None,
        secret_key: str | None = None,
        expires_in_s: int = DEFAULT_EXPIRY_S,
    ) -> None:
        if any(part in {"", ".", ".."} for part in prefix.split("/")) and prefix:
            raise StorageError("The prefix of an s3: storage URL has an empty or dotted part. Write s3://bucket/a/b.")
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._expires_in_s = expires_in_s
        session = boto3.Session(
            aws_access_key_id=access_key, aws_secret_access_key=secret_key, region_name=region or None
        )
        # Stores other than AWS ignore the region, but a signature must name one.
        region_name = session.region_name or "us-east-1"
        config = Config(
            # The default in us-east-1 signs URLs the old way, which binds neither size nor digest nor no-overwrite.
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            retries={"mode": "standard", "total_max_attempts": 4},
            # Several stores refuse the CRC32 that boto3 would add unasked.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            connect_timeout=5,
            read_timeout=60,
            max_pool_connections=32,
        )
        self._client = session.client("s3", region_name=region_name, endpoint_url=endpoint_url, config=config)
        self._presigner = self._client
        if public_endpoint_url is not None and public_endpoint_url != endpoint_url:
            self._presigner = session.client(
                "s3", region_name=region_name, endpoint_url=public_endpoint_url, config=config
            )

    def put_location(self, sha256: str, size_bytes: int) -> PutLocation:
        if size_bytes > MAX_PUT_BYTES:
            raise StorageError(
                f"A file of {size_bytes} bytes is too large: S3 takes {MAX_PUT_BYTES} at once. Split it into shards."
            )
        checksum = _base64_of(sha256)
        parameters = self._at(sha256) | {
            "ContentLength": size_bytes,
            "ChecksumSHA256": checksum,
            "IfNoneMatch": "*",
        }
        return PutLocation(
            url=self._presigned("put_object", parameters),
            headers={"Content-Length": str(size_bytes), "x-amz-checksum-sha256": checksum, "If-None-Match": "*"},
            expires_in_s=self._expires_in_s,
        )

    def get_location(self, sha256: str) -> GetLocation:
        return GetLocation(url=self._presigned("get_object", self._at(sha256)), expires_in_s=self._expires_in_s)

    def stat(self, sha256: str) -> BlobStat | None:
        parameters = self._at(sha256)
        try:
            with self._as_unavailable():
                head = self._client.head_object(**parameters, ChecksumMode="ENABLED")
        except ClientError as error:
            if _status_of(error) == 404:
                return None
            raise
        return BlobStat(
            size_bytes=head["ContentLength"],
            sha256=_proven(head),
            modified_at=head["LastModified"],
        )

    @contextmanager
    def open(self, sha256: str) -> Iterator[Iterator[bytes]]:
        parameters = self._at(sha256)
        try:
            with self._as_unavailable():
                body = self._client.get_object(**parameters)["Body"]
        except ClientError as error:
            if _status_of(error) == 404:
                raise BlobMissing(sha256) from None
            raise
        try:
            yield self._chunks_of(body)
        finally:
            # A body that was not read to its end cannot go back to the pool; closing drops its connection.
            body.close()

    def put(self, sha256: str, size_bytes: int, chunks: Iterator[bytes]) -> None:
        parameters = self._at(sha256)
        # The bytes are verified before the store sees them, and can be sent again where a try fails halfway.
        with tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES) as spool:
            found, found_bytes = hashlib.sha256(), 0
            for chunk in chunks:
                found_bytes += len(chunk)
                if found_bytes > size_bytes:
                    break
                found.update(chunk)
                with _as_full():
                    spool.write(chunk)
            with _as_full():
                spool.seek(0)
            check_bytes(sha256, size_bytes, found.hexdigest(), found_bytes)
            try:
                with self._as_unavailable():
                    self._client.put_object(
                        **parameters,
                        Body=spool,
                        ContentLength=size_bytes,
                        ChecksumSHA256=_base64_of(sha256),
                        IfNoneMatch="*",
                    )
            except ClientError as error:
                # 412: it is there, perhaps from a try whose answer was lost. 409: someone else is sending it now.
                if _status_of(error) not in {409, 412}:
                    raise
                if self.stat(sha256) is None:
                    raise StorageUnavailable(
                        f"Another upload of sha256 {sha256} was in the way and has not finished. Try again."
                    ) from error

    def delete(self, sha256: str) -> None:
        parameters = self._at(sha256)
        with self._as_unavailable():
            self._client.delete_object(**parameters)

    def list(self) -> Iterator[str]:
        prefix = f"{self._prefix}blobs/sha256/"
        pages = iter(self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix))
        while True:
            with self._as_unavailable():
                page = next(pages, None)
            if page is None:
                return
            for item in page.get("Contents", ()):
                digest = digest_of_name(item["Key"].rpartition("/")[2])
                if digest is not None and item["Key"] == self._prefix + blob_key(digest):
                    yield digest

    def sweep(self, older_than_s: float, *, dry_run: bool = False) -> int:
        """Do nothing: a single PUT is there whole or not at all, and no location allows one in parts."""
        return 0

    def check(self) -> None:
        try:
            with self._as_unavailable():
                self._client.head_bucket(Bucket=self._bucket)
        except ClientError as error:
            raise StorageUnavailable(
                f"The bucket {self._bucket!r} does not exist. Create it, or correct REGISTRY_STORAGE_URL."
            ) from error

    def close(self) -> None:
        self._client.close()
        self._presigner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _at(self, sha256: str) -> dict[str, Any]:
        return {"Bucket": self._bucket, "Key": self._prefix + blob_key(sha256)}

    def _presigned(self, operation: str, parameters: dict[str, Any]) -> str:
        with self._as_unavailable():
            return str(self._presigner.generate_presigned_url(operation, parameters, ExpiresIn=self._expires_in_s))

    def _chunks_of(self, body: Any) -> Iterator[bytes]:
        while True:
            with self._as_unavailable():
                chunk = body.read(CHUNK_BYTES)
            if not chunk:
                return
            yield chunk

    @contextmanager
    def _as_unavailable(self) -> Iterator[None]:
        """Turn what the store says into StorageUnavailable, except the answers whose meaning the caller knows."""
        try:
            yield
        except ClientError as error:
            status = _status_of(error)
            if status in {404, 409, 412}:
                raise
            code = error.response.get("Error", {}).get("Code", "no code")
            if status in {401, 403}:
                advice = "Check the registry's keys, and that their policy allows reading, writing and listing."
            else:
                advice = "Check the store's health and free space, then try again."
            raise StorageUnavailable(
                f"The bucket {self._bucket!r} answered {status} ({code}) to {error.operation_name}. {advice}"
            ) from error
        except (BotoCoreError, HTTPClientError, OSError) as error:
            # The library's messages name the endpoint but never a signed URL or a key.
            raise StorageUnavailable(
                f"The bucket {self._bucket!r} cannot be used: {error}. "
                "Check REGISTRY_S3_ENDPOINT_URL, the network and the registry's keys."
            ) from error


@contextmanager
def _as_full() -> Iterator[None]:
    """Turn what the temporary folder says into StorageUnavailable."""
    try:
        yield
    except OSError as error:
        raise StorageUnavailable(
            f"The temporary folder of the registry: {error.strerror or error}. Free some space in it."
        ) from error


def _base64_of(sha256: str) -> str:
    blob_key(sha256)
    return base64.b64encode(bytes.fromhex(sha256)).decode("ascii")


def _proven(head: dict[str, Any]) -> str | None:
    """Return the SHA-256 that the store has computed over the whole blob, where it says so."""
    checksum = str(head.get("ChecksumSHA256", ""))
    # An upload in parts has a hash of hashes ("…-3"), which says nothing about the file's own digest.
    if head.get("ChecksumType", "FULL_OBJECT") != "FULL_OBJECT" or "-" in checksum:
        return None
    try:
        digest = base64.b64decode(checksum, validate=True)
    except ValueError:
        return None
    return digest.hex() if len(digest) == 32 else None


def _status_of(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
