"""The routes of a folder behind HTTP: one blob in, or a range of one out, for any holder of a signed URL.

They need no token: the signature in the query is the permission, as with a presigned S3 URL.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, ParamSpec, TypeVar

from anyio.lowlevel import RunVar
from anyio.to_thread import run_sync
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from registry.pools import Pool
from registry.storage.errors import BlobCorrupt, BlobMissing, StorageError, StorageUnavailable
from registry.storage.folder import BLOBS_PATH, BlobWriter, FolderStorage
from registry.storage.protocol import CHUNK_BYTES, sha256_of
from registry.storage.signing import Permission, verify
from sdk.schemas.codes import ErrorBody, ErrorCode, ErrorReply

if TYPE_CHECKING:
    from anyio import CapacityLimiter

P = ParamSpec("P")
T = TypeVar("T")

_RANGE = re.compile(r"bytes=(?:(?P<first>[0-9]{1,15})-(?P<last>[0-9]{0,15})|-(?P<suffix>[0-9]{1,15}))")
#: HTTP status and stable code of each error that these routes answer with.
_ANSWERS: dict[type[StorageError], tuple[int, ErrorCode]] = {
    BlobCorrupt: (400, ErrorCode.VERIFICATION),
    BlobMissing: (404, ErrorCode.NOT_FOUND),
    StorageUnavailable: (503, ErrorCode.UNAVAILABLE),
}


#: Threads that only read and write blobs: all other threads may be waiting for a database.
_THREADS = 8
#: How much of all blobs that come in is gathered to larger chunks. Beyond that, pieces are written as they come.
_GATHERED_BYTES = 2 * CHUNK_BYTES
_POOL = Pool(
    "blobs",
    waits="files that are sent to or fetched from a folder storage",
    at_once=str(_THREADS),
    item="one chunk of 1 MiB; to join parts, the bytes of a blob",
    share="none is needed: each transfer waits with one chunk at a time, after one of every other",
    most_bytes=_GATHERED_BYTES + _THREADS * CHUNK_BYTES,
)
_threads: RunVar[CapacityLimiter] = RunVar("registry_blobs")


async def _on_disk(call: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
    """Call a function that reads or writes a file, in one of the threads for this."""
    limiter = _threads.get(None)
    if limiter is None:
        limiter = _POOL.limiter(_THREADS)
        _threads.set(limiter)
    return await run_sync(partial(call, *given, **named), limiter=limiter)


def blob_routes(storage: FolderStorage) -> APIRouter:
    """Return the routes that serve `storage`, which must have a signing key."""
    key = storage.signing_key
    if key is None:
        raise StorageError("Only a folder with a public URL and a signing key can be served. Give it both.")
    router, gathering = APIRouter(), Gathering()
    path = f"{BLOBS_PATH}/{{name}}"

    @router.put(path, include_in_schema=False)
    async def put_blob(name: str, request: Request) -> Response:
        """Store one blob, or one part. 200 also if it already exists; 400, and nothing stored, for other bytes."""
        permission = verify(key, "PUT", name, request.query_params)
        if permission is None or permission.size_bytes is None:
            return _forbidden()
        if request.headers.get("content-length") != str(permission.size_bytes):
            message = (
                f"This URL takes exactly {permission.size_bytes} bytes with a Content-Length. Ask for a new upload."
            )
            return _error(400, ErrorCode.VERIFICATION, message)
        try:
            writer = await _on_disk(_writer_of, storage, permission)
            with writer:
                async for chunk in gathering.chunks(request.stream()):
                    await _on_disk(writer.write, chunk)
                await _on_disk(writer.commit)
        except StorageError as error:
            return _error_of(error)
        except FileNotFoundError:
            # Its parts were joined or swept while this one was sent.
            return _error_of(BlobMissing(name))
        except ClientDisconnect:
            # Nobody is left to read the answer; the partial file has been removed.
            return Response(status_code=400)
        return Response(status_code=200, headers={"ETag": f'"{name}"'})

    @router.get(path, include_in_schema=False)
    async def get_blob(name: str, request: Request) -> Response:
        """Return one blob, or one range of it. 412 if `If-Match` names another ETag."""
        if verify(key, "GET", name, request.query_params) is None:
            return _forbidden()
        try:
            file = await _on_disk(storage.open_file, name)
        except StorageError as error:
            return _error_of(error)
        try:
            response = _answer(file, f'"{name}"', request)
        except BaseException:
            file.close()
            raise
        if not isinstance(response, _FileSlice):
            file.close()
        return response

    return router


def _writer_of(storage: FolderStorage, permission: Permission) -> BlobWriter:
    if permission.part:
        return storage.part_writer(permission)
    return BlobWriter(storage.path_of(permission.name), sha256_of(permission.name), permission.size_bytes or 0)


def _answer(file: BinaryIO, etag: str, request: Request) -> Response:
    size_bytes = os.fstat(file.fileno()).st_size
    headers = {"ETag": etag, "Accept-Ranges": "bytes", "Cache-Control": "private, immutable"}
    if not _matches(request.headers.get("if-match"), etag):
        return _error(
            412, ErrorCode.CONFLICT, "The blob has another ETag than If-Match names. Start the download again."
        )
    wanted = _range_of(request, etag, size_bytes)
    if wanted is None:
        return _FileSlice(file, 0, size_bytes, status_code=200, headers=headers)
    if not wanted:
        response = _error(416, ErrorCode.INVALID, f"The blob has {size_bytes} bytes. Ask for a range inside them.")
        response.headers["Content-Range"] = f"bytes */{size_bytes}"
        return response
    headers["Content-Range"] = f"bytes {wanted.start}-{wanted.stop - 1}/{size_bytes}"
    return _FileSlice(file, wanted.start, len(wanted), status_code=206, headers=headers)


class _FileSlice(StreamingResponse):
    """Streams part of an open file in chunks, and closes it however the request ends."""

    def __init__(
        self, file: BinaryIO, start: int, length_bytes: int, *, status_code: int, headers: dict[str, str]
    ) -> None:
        self._file = file
        headers = headers | {"Content-Length": str(length_bytes)}
        chunks = _slice_of(file, start, length_bytes)
        super().__init__(chunks, status_code=status_code, headers=headers, media_type="application/octet-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            # A client that hangs up before the first chunk leaves the iterator unstarted, so it cannot do this.
            self._file.close()


async def _slice_of(file: BinaryIO, start: int, length_bytes: int) -> AsyncIterator[bytes]:
    file.seek(start)
    while length_bytes > 0 and (chunk := await _on_disk(file.read, min(CHUNK_BYTES, length_bytes))):
        length_bytes -= len(chunk)
        yield chunk


class Gathering:
    """Joins the network's small pieces of blobs into chunks that are worth a step to another thread.

    All blobs together hold little more than `most_bytes`, however many come in.
    """

    def __init__(self, most_bytes: int = _GATHERED_BYTES) -> None:
        self._most_bytes = most_bytes
        self.held_bytes = 0

    async def chunks(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield the chunks of one blob."""
        held = bytearray()
        try:
            async for piece in pieces:
                held += piece
                self.held_bytes += len(piece)
                if len(held) >= CHUNK_BYTES or self.held_bytes > self._most_bytes:
                    self.held_bytes -= len(held)
                    chunk, held = bytes(held), bytearray()
                    yield chunk
        finally:
            self.held_bytes -= len(held)
        if held:
            yield bytes(held)


def _range_of(request: Request, etag: str, size_bytes: int) -> range | None:
    """Return the requested positions: None for the whole blob, an empty range if it has none of them."""
    found = _RANGE.fullmatch(request.headers.get("range", ""))
    # Several ranges, other units and malformed ones are answered with the whole blob, as RFC 9110 allows.
    if found is None or request.headers.get("if-range", etag) != etag:
        return None
    if found["suffix"] is not None:
        return range(max(0, size_bytes - int(found["suffix"])), size_bytes)
    first = int(found["first"])
    last = int(found["last"]) if found["last"] else size_bytes - 1
    if found["last"] and last < first:
        return None
    return range(first, min(last + 1, size_bytes))


def _matches(if_match: str | None, etag: str) -> bool:
    return if_match is None or any(candidate.strip() in {"*", etag} for candidate in if_match.split(","))


def _forbidden() -> JSONResponse:
    # The same answer for every reason: it must not help anyone to forge a better signature.
    return _error(403, ErrorCode.FORBIDDEN, "This URL is not signed by the registry or has expired. Ask for a new one.")


def _error_of(error: StorageError) -> JSONResponse:
    status, code = _ANSWERS.get(type(error), (400, ErrorCode.INVALID))
    return _error(status, code, str(error))


def _error(status: int, code: ErrorCode, message: str) -> JSONResponse:
    reply = ErrorReply(error=ErrorBody(code=code, message=message))
    headers = {"Retry-After": "1"} if status == 503 else None
    return JSONResponse(reply.model_dump(mode="json"), status_code=status, headers=headers)
