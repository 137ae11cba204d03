"""Sending files to storage: in parallel, large ones in parts, continuing where it broke.

Every try opens a new session. The registry then asks only for what has not arrived, so a second try, or a second
run of the same command, sends no byte that is already there.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from sdk.allowed_locations import Reach
from sdk.api import artifacts
from sdk.api.transport import Transport
from sdk.errors import AdapterctlError, Unavailable, VerificationFailed, disk_explained
from sdk.pulling.filling import OnTransfer, watching
from sdk.pulling.http import proxied
from sdk.pulling.transfer import CHUNK_BYTES, OnBytes, copy_checked, give_over, storage_client, storage_explained
from sdk.schemas.artifacts import BlobSpec, InParts, PartSpec, PartsRequest, Transfer, UploadRequest, UploadView

if TYPE_CHECKING:
    import httpx

#: How often in a row a session is opened without progress before an interrupted upload is given up.
_TRIES = 5
#: Requests that run at once.
_AT_ONCE = 4

#: Opens a session for all files; the session says what is to be sent.
Begin = Callable[[], UploadView]
#: Asks where one part goes: the session, the blob, the part's number and its SHA-256.
AskPart = Callable[[str, str, int, str], Transfer]

#: Does one transfer, given an HTTP client for the storage.
_Work = Callable[["httpx.Client"], None]


class _Interrupted(Unavailable):
    """A transfer that another try may finish."""


class Uploader:
    """Uploads files to the storage of one registry."""

    def __init__(self, transport: Transport, on_transfer: OnTransfer | None) -> None:
        self._transport, self._on_transfer = transport, on_transfer

    def upload(
        self, sources: Mapping[str, Path], doing: str, namespace: str | None = None, *, given: bool = False
    ) -> str:
        """Send files, by SHA-256, straight to storage; return the upload session's id.

        Files that the registry has and this client may read are not sent; an interrupted upload continues. Space for
        the rest is reserved where it will be used: in a namespace, "-", or "*" for what is published for all; None: the
        first in which this client may write. `given`: nobody writes to these files any more, and the caller removes them, so
        that a storage in a folder of the same disk takes them without a copy. Raises QuotaExceeded before anything is
        sent.
        """
        blobs = [BlobSpec(sha256=sha256, size_bytes=path.stat().st_size) for sha256, path in sources.items()]
        watch: OnBytes | None = None

        def begin() -> UploadView:
            nonlocal watch
            session = artifacts.begin_upload(self._transport, UploadRequest(blobs=blobs), namespace=namespace)
            if watch is None:
                left = [min(part.part_bytes * len(part.missing), part.size_bytes) for part in session.parts]
                watch = watching(self._on_transfer, doing, sum(put.size_bytes for put in session.put) + sum(left))
            return session

        def ask_part(session: str, sha256: str, number: int, part_sha256: str) -> Transfer:
            request = PartsRequest(sha256=sha256, parts=[PartSpec(number=number, sha256=part_sha256)])
            return artifacts.ask_parts(self._transport, session, request)[0]

        def on_bytes(count: int) -> None:
            if watch is not None:
                watch(count)

        reach = self._transport.config.reach
        return send_all(sources, begin=begin, ask_part=ask_part, on_bytes=on_bytes, reach=reach, given=given)


def send_all(
    sources: Mapping[str, Path],
    *,
    begin: Begin,
    ask_part: AskPart,
    on_bytes: OnBytes,
    reach: Reach | None = None,
    given: bool = False,
) -> str:
    """Send files, by SHA-256, where the registry wants them; return the id of the session that has them all.

    Raises Unavailable if the storage can't be reached, VerificationFailed if a file was changed meanwhile, or if
    the registry gives a location outside its `reach`.
    """
    reach = reach or Reach()
    turn, least = 0, None
    while True:
        session = begin()
        left = sum(put.size_bytes for put in session.put) + sum(
            len(blob.missing) * blob.part_bytes for blob in session.parts
        )
        if least is not None and left < least:
            # There is progress, however slow.
            turn = 0
        least = left if least is None else min(left, least)
        works = _works(session, sources, ask_part, on_bytes, reach, given)
        try:
            _run(works, tls=_needs_tls(session))
        except _Interrupted as error:
            if turn == _TRIES - 1:
                raise Unavailable(error.message) from error
            # Clients that were cut off together should not all come back at the same time.
            time.sleep(0.2 * 2**turn * (0.5 + random.random()))  # noqa: S311 - no secret
            turn += 1
        else:
            return session.id


def _needs_tls(session: UploadView) -> bool:
    # Where parts go is only known later, and a proxy may need TLS itself.
    return bool(session.parts) or proxied() or any(put.url.startswith("https:") for put in session.put)


def _works(
    session: UploadView, sources: Mapping[str, Path], ask_part: AskPart, on_bytes: OnBytes, reach: Reach, given: bool
) -> list[_Work]:
    works: list[_Work] = []
    for put in session.put:
        works.append(lambda client, put=put: _send(client, sources[put.sha256], 0, put, on_bytes, reach, given))  # type: ignore[misc]
    for blob in session.parts:
        for number in blob.missing:
            works.append(
                lambda client, blob=blob, number=number: _send_part(  # type: ignore[misc]
                    client, session.id, sources[blob.sha256], blob, number, ask_part, on_bytes, reach
                )
            )
    return works


def _run(works: list[_Work], *, tls: bool = True) -> None:
    """Do all transfers, several at a time; after a failure begin no more, and raise one of the errors."""
    if not works:
        return
    with storage_client(tls=tls) as client:
        if len(works) == 1:
            works[0](client)
            return
        from concurrent.futures import ThreadPoolExecutor

        stopped = threading.Event()

        def unless_stopped(work: _Work) -> None:
            if stopped.is_set():
                return
            try:
                work(client)
            except BaseException:
                stopped.set()
                raise

        with ThreadPoolExecutor(min(_AT_ONCE, len(works))) as pool:
            try:
                failed = [
                    error
                    for done in [pool.submit(unless_stopped, work) for work in works]
                    if (error := done.exception())
                ]
            except BaseException:
                # Ctrl-C reaches this thread alone; the pool waits for what has begun, and begins nothing more.
                stopped.set()
                raise
        # An error that no retry can fix is more informative than one that a retry might.
        for error in sorted(failed, key=lambda error: isinstance(error, _Interrupted)):
            raise error


def _send_part(
    client: httpx.Client,
    session: str,
    source: Path,
    blob: InParts,
    number: int,
    ask_part: AskPart,
    on_bytes: OnBytes,
    reach: Reach,
) -> None:
    offset = (number - 1) * blob.part_bytes
    hasher = hashlib.sha256()
    for chunk in _pieces(source, offset, min(blob.part_bytes, blob.size_bytes - offset)):
        hasher.update(chunk)
    to = ask_part(session, blob.sha256, number, hasher.hexdigest())
    _send(client, source, offset, to, on_bytes, reach)


def _send(
    client: httpx.Client,
    source: Path,
    offset: int,
    to: Transfer,
    on_bytes: OnBytes,
    reach: Reach,
    given: bool = False,
) -> None:
    """Send `to.size_bytes` of a file from `offset` on, in one request or one copy; one that is given gets a second name."""
    reach.require(to.url)
    parts = urlsplit(to.url)
    if parts.scheme == "file":
        target = Path(unquote(parts.path))
        if not target.exists():
            with disk_explained("storing an artifact"):
                if given and give_over(source, target):
                    on_bytes(to.size_bytes)
                else:
                    copy_checked(source, target, to.sha256, on_bytes)
        return
    passed = 0

    def body() -> Iterator[bytes]:
        nonlocal passed
        for chunk in _pieces(source, offset, to.size_bytes):
            yield chunk
            passed += len(chunk)
            on_bytes(len(chunk))

    try:
        with storage_explained():
            response = client.put(to.url, content=body(), headers={**to.headers, "Content-Length": str(to.size_bytes)})
        _judge(response, source)
    except AdapterctlError as error:
        # The counted bytes have not arrived.
        on_bytes(-passed)
        if isinstance(error, Unavailable):
            raise _Interrupted(error.message) from error
        raise


def _judge(response: httpx.Response, source: Path) -> None:
    status = response.status_code
    # 412: the storage has this already, from a try whose answer was lost.
    if response.is_success or status == 412:
        return
    # AWS also answers 400 to a request that came too slowly.
    if status == 400 and "RequestTimeout" not in response.text:
        raise VerificationFailed(
            f"the storage refused {source.name} (HTTP 400); it may have changed meanwhile, so try again"
        )
    # 403 means an expired URL, 404 that the upload in parts was removed, 409 that another try is in progress.
    raise Unavailable(f"the storage answered HTTP {status} to {source.name}; try again")


def _pieces(source: Path, offset: int, size_bytes: int) -> Iterator[bytes]:
    try:
        file = source.open("rb")
    except FileNotFoundError:
        raise VerificationFailed(f"{source.name} was removed while it was being sent; try again") from None
    with file:
        file.seek(offset)
        while size_bytes > 0:
            chunk = file.read(min(CHUNK_BYTES, size_bytes))
            if not chunk:
                raise VerificationFailed(f"{source.name} became shorter while it was being sent; try again")
            size_bytes -= len(chunk)
            yield chunk
