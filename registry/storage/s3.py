"""Blobs in an S3 bucket: any store that checks SigV4 signatures, SHA-256 checksums and `If-None-Match`."""

from __future__ import annotations

import base64
import hashlib
import logging
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import boto3
import botocore.loaders
import botocore.session
from botocore.exceptions import ClientError

from registry.storage.calls import Calls, status_of
from registry.storage.errors import BlobMissing, StorageError, StorageUnavailable
from registry.storage.folder import check_bytes
from registry.storage.protocol import (
    CHUNK_BYTES,
    DEFAULT_EXPIRY_S,
    DEFAULT_PART_BYTES,
    BlobStat,
    Location,
    S3Options,
    blob_key,
    is_name,
    sha256_of,
)

# At debug level the library logs what it signs, and the signatures: a presigned one is a credential.
for _name in ("botocore.auth", "botocore.endpoint"):
    logging.getLogger(_name).addFilter(lambda record: record.levelno > logging.DEBUG)

#: S3 accepts no more in one PUT, and only a single PUT has a checksum that is the file's own SHA-256.
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
        options: S3Options | None = None,
        expires_in_s: int = DEFAULT_EXPIRY_S,
        part_bytes: int = DEFAULT_PART_BYTES,
    ) -> None:
        if any(part in {"", ".", ".."} for part in prefix.split("/")) and prefix:
            raise StorageError("The prefix of an s3: storage URL has an empty or dotted part. Write s3://bucket/a/b.")
        options = options or S3Options()
        self.part_bytes: int | None = part_bytes
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._expires_in_s = expires_in_s
        self._owner = {"ExpectedBucketOwner": options.bucket_owner} if options.bucket_owner else {}
        self._encryption = {
            key: value
            for key, value in (("ServerSideEncryption", options.encryption), ("SSEKMSKeyId", options.kms_key_id))
            if value
        }
        session = boto3.Session(
            botocore_session=_session(),
            aws_access_key_id=options.access_key,
            aws_secret_access_key=options.secret_key,
            region_name=options.region or None,
        )
        # Stores other than AWS ignore the region, but a signature must name one.
        region_name = session.region_name or "us-east-1"
        self._calls = Calls(bucket, options)

        def open_client(endpoint_url: str | None, read_s: float | None = None) -> Any:
            config = self._calls.config(options, read_s=read_s)
            client = session.client("s3", region_name=region_name, endpoint_url=endpoint_url, config=config)
            self._calls.limit(client)
            return client

        self._client = open_client(options.endpoint_url)
        #: For calls that may take a store longer: it writes, or joins, a large blob before it answers.
        self._writer = open_client(options.endpoint_url, options.stall_s)
        self._stall_s = options.stall_s
        self._presigner = self._client
        if options.public_endpoint_url not in {None, options.endpoint_url}:
            self._presigner = open_client(options.public_endpoint_url)

    def put_location(self, name: str, size_bytes: int) -> Location:
        if size_bytes > MAX_PUT_BYTES:
            raise StorageError(
                f"A file of {size_bytes} bytes is too large: S3 accepts {MAX_PUT_BYTES} at once. Split it into shards."
            )
        sent = {"ContentLength": size_bytes, "ChecksumSHA256": _base64_of(sha256_of(name)), "IfNoneMatch": "*"}
        return self._put("put_object", name, sent | self._encryption)

    def begin_parts(self, name: str) -> str:
        with self._calls.answered():
            begun = self._client.create_multipart_upload(
                **self._at(name), **self._encryption, ChecksumAlgorithm="SHA256"
            )
        return str(begun["UploadId"])

    def part_location(self, name: str, parts_id: str, number: int, sha256: str, size_bytes: int) -> Location:
        sent = {"ContentLength": size_bytes, "ChecksumSHA256": _base64_of(sha256)}
        return self._put("upload_part", name, {"UploadId": parts_id, "PartNumber": number, **sent})

    def sent_parts(self, name: str, parts_id: str) -> dict[int, int]:
        return {int(part["PartNumber"]): int(part["Size"]) for part in self._parts(name, parts_id)}

    def join_parts(self, name: str, parts_id: str, digests: Mapping[int, str]) -> None:
        parts = []
        for part in self._parts(name, parts_id):
            number = part["PartNumber"]
            # Not every store lists the digests that it requires here.
            if number in digests:
                digest = _base64_of(digests[number])
                parts.append({"PartNumber": number, "ETag": part["ETag"], "ChecksumSHA256": digest})
        try:
            with self._calls.answered():
                self._writer.complete_multipart_upload(
                    **self._at(name), UploadId=parts_id, MultipartUpload={"Parts": parts}, IfNoneMatch="*"
                )
        except ClientError as error:
            # Somebody else who waits for the same blob has joined it, perhaps this call whose answer was lost.
            if self.stat(name) is None:
                raise BlobMissing(name) from error

    def get_location(self, name: str) -> Location:
        return Location(
            url=self._presigned("get_object", self._at(name)),
            headers=_headers_of(self._owner),
            expires_in_s=self._expires_in_s,
        )

    def stat(self, name: str) -> BlobStat | None:
        try:
            with _missing(name), self._calls.answered():
                head = self._client.head_object(**self._at(name), ChecksumMode="ENABLED")
        except BlobMissing:
            return None
        return BlobStat(
            size_bytes=head["ContentLength"],
            sha256=_proven(head),
            modified_at=head["LastModified"],
        )

    @contextmanager
    def open(self, name: str) -> Iterator[Iterator[bytes]]:
        with _missing(name), self._calls.answered():
            body = self._client.get_object(**self._at(name))["Body"]
            # The answer has a deadline, but its bytes have none as long as they keep coming. Short ones are here
            # already.
            with suppress(AttributeError):
                body.set_socket_timeout(self._stall_s)
        try:
            yield self._chunks_of(body)
        finally:
            # A body that was not read to its end cannot go back to the pool; closing drops its connection.
            body.close()

    def read_part(self, name: str, begin: int, end: int) -> bytes:
        with _missing(name), self._calls.answered():
            answer = self._client.get_object(**self._at(name), Range=f"bytes={begin}-{end - 1}")
            part: bytes = answer["Body"].read()
        return part

    def put(self, name: str, size_bytes: int, chunks: Iterator[bytes]) -> None:
        parameters, sha256 = self._at(name), sha256_of(name)
        # The bytes are verified before the store sees them, and can be sent again if a try fails halfway.
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
                with self._calls.answered():
                    self._writer.put_object(
                        **parameters,
                        **self._encryption,
                        Body=spool,
                        ContentLength=size_bytes,
                        ChecksumSHA256=_base64_of(sha256),
                        IfNoneMatch="*",
                    )
            except ClientError as error:
                # 412: it exists, perhaps from a try whose answer was lost. 409: someone else is sending it now.
                if status_of(error) not in {409, 412}:
                    raise
                if self.stat(name) is None:
                    raise StorageUnavailable(
                        f"Another upload of sha256 {sha256} has not finished yet. Try again."
                    ) from error

    def delete(self, name: str) -> None:
        parameters = self._at(name)
        with self._calls.answered():
            self._client.delete_object(**parameters)

    def list(self) -> Iterator[str]:
        for page in self._listed("list_objects_v2"):
            for item in page.get("Contents", ()):
                name = item["Key"].rpartition("/")[2]
                if is_name(name) and item["Key"] == self._prefix + blob_key(name):
                    yield name

    def sweep(self, older_than_s: float, *, keep: Collection[str] = (), dry_run: bool = False) -> int:
        """Abort old uploads in parts: their parts take room, and cost money, until somebody does."""
        latest = datetime.now(UTC) - timedelta(seconds=older_than_s)
        left = [
            {"Key": upload["Key"], "UploadId": upload["UploadId"]}
            for page in self._listed("list_multipart_uploads")
            for upload in page.get("Uploads", ())
            if upload["Key"].startswith(self._blobs)
            and upload["Initiated"] <= latest
            and upload["UploadId"] not in keep
        ]
        for upload in [] if dry_run else left:
            try:
                with self._calls.answered():
                    self._client.abort_multipart_upload(Bucket=self._bucket, **upload, **self._owner)
            except ClientError as error:
                # Another sweep was faster, or the upload has just been joined.
                if status_of(error) != 404:
                    raise
        return len(left)

    def check(self) -> None:
        try:
            with self._calls.answered():
                self._client.head_bucket(Bucket=self._bucket, **self._owner)
        except ClientError as error:
            raise StorageUnavailable(
                f"The bucket {self._bucket!r} does not exist. Create it, or correct REGISTRY_STORAGE_URL."
            ) from error

    def close(self) -> None:
        for client in (self._client, self._writer, self._presigner):
            client.close()

    @property
    def _blobs(self) -> str:
        return f"{self._prefix}blobs/sha256/"

    def _at(self, name: str) -> dict[str, Any]:
        return {"Bucket": self._bucket, "Key": self._prefix + blob_key(name), **self._owner}

    def _put(self, operation: str, name: str, sent: dict[str, Any]) -> Location:
        return Location(
            url=self._presigned(operation, self._at(name) | sent),
            headers=_headers_of(sent | self._owner),
            expires_in_s=self._expires_in_s,
        )

    def _parts(self, name: str, parts_id: str) -> Sequence[dict[str, Any]]:
        """The parts that have arrived, in order. Raises BlobMissing."""
        pages = self._client.get_paginator("list_parts").paginate(**self._at(name), UploadId=parts_id)
        with _missing(name):
            return [part for page in self._pages(pages) for part in page.get("Parts", ())]

    def _listed(self, operation: str) -> Iterator[dict[str, Any]]:
        pages = self._client.get_paginator(operation)
        return self._pages(pages.paginate(Bucket=self._bucket, Prefix=self._blobs, **self._owner))

    def _pages(self, pages: Any) -> Iterator[dict[str, Any]]:
        left = iter(pages)
        while True:
            with self._calls.answered():
                page = next(left, None)
            if page is None:
                return
            yield page

    def _presigned(self, operation: str, parameters: dict[str, Any]) -> str:
        # Signed here: the store is not asked.
        with self._calls.explained():
            return str(self._presigner.generate_presigned_url(operation, parameters, ExpiresIn=self._expires_in_s))

    def _chunks_of(self, body: Any) -> Iterator[bytes]:
        while True:
            with self._calls.answered():
                chunk = body.read(CHUNK_BYTES)
            if not chunk:
                return
            yield chunk


@contextmanager
def _missing(name: str) -> Iterator[None]:
    """Raise BlobMissing if the store has nothing of this name."""
    try:
        yield
    except ClientError as error:
        if status_of(error) == 404:
            raise BlobMissing(name) from None
        raise


@contextmanager
def _as_full() -> Iterator[None]:
    """Turn errors of the temporary folder into StorageUnavailable."""
    try:
        yield
    except OSError as error:
        raise StorageUnavailable(
            f"The registry's temporary folder can't be used: {error.strerror or error}. Free some space in it."
        ) from error


#: The header that each parameter of a presigned request becomes; the signature covers it.
_HEADERS = {
    "ContentLength": "Content-Length",
    "ChecksumSHA256": "x-amz-checksum-sha256",
    "IfNoneMatch": "If-None-Match",
    "ServerSideEncryption": "x-amz-server-side-encryption",
    "SSEKMSKeyId": "x-amz-server-side-encryption-aws-kms-key-id",
    "ExpectedBucketOwner": "x-amz-expected-bucket-owner",
}


def _session() -> botocore.session.Session:
    session = botocore.session.Session()
    session.register_component("data_loader", _loader(session.get_config_variable("data_path")))
    return session


@cache
def _loader(folders: str | None) -> botocore.loaders.Loader:
    """The library's description of S3 takes a quarter of a second to read, so a process reads it once."""
    return botocore.loaders.create_loader(folders)


def _headers_of(parameters: dict[str, Any]) -> dict[str, str]:
    return {_HEADERS[key]: str(value) for key, value in parameters.items() if key in _HEADERS}


def _base64_of(sha256: str) -> str:
    return base64.b64encode(bytes.fromhex(sha256)).decode("ascii")


def _proven(head: dict[str, Any]) -> str | None:
    """Return the SHA-256 that the store has computed over the whole blob, if it says so."""
    checksum = str(head.get("ChecksumSHA256", ""))
    # An upload in parts has a hash of hashes ("…-3"), which says nothing about the file's own digest.
    if head.get("ChecksumType", "FULL_OBJECT") != "FULL_OBJECT" or "-" in checksum:
        return None
    try:
        digest = base64.b64decode(checksum, validate=True)
    except ValueError:
        return None
    return digest.hex() if len(digest) == 32 else None
