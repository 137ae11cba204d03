"""What a registry needs, tried with real operations; each trial says what it found and what to do.

Nothing is kept: the trial blobs have names of their own and are removed, whatever happens.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx

from registry.errors import RegistryError
from registry.ops.database import database_of
from registry.settings import Settings
from registry.storage import FolderStorage, Location, Storage, StorageError
from registry.storage.protocol import DEFAULT_EXPIRY_S

_BODY_BYTES = 100_000
#: S3 accepts no smaller part, except for the last one.
_PART_BYTES = 5 * 1024 * 1024
_LEAST_FREE_BYTES = 1024**3

Outcome = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Finding:
    """The outcome of one trial."""

    what: str
    outcome: Outcome
    #: What was found; if it isn't well, what to do.
    message: str


class _Failed(Exception):  # noqa: N818 - it reads as what happened
    """A trial that found something wrong."""


class _Doubtful(Exception):  # noqa: N818
    """A trial that found something that works, but is worth knowing."""


def examine(settings: Settings, open_storage: Callable[[int], Storage]) -> Iterator[Finding]:
    """Try database, storage and broker. `open_storage` opens the storage with locations that are valid for the given
    number of seconds.
    """
    yield _try("database", lambda: _database(settings))
    try:
        storage = open_storage(DEFAULT_EXPIRY_S)
    except (RegistryError, StorageError) as error:
        yield Finding("storage", "failed", str(error))
        return
    with closing(storage), httpx.Client(timeout=30) as http:
        yield from _storage(storage, http, open_storage)
    yield _try("broker", lambda: _broker(settings.broker_url))


def _try(what: str, trial: Callable[[], str]) -> Finding:
    try:
        return Finding(what, "ok", trial())
    except _Doubtful as doubt:
        return Finding(what, "warning", str(doubt))
    except (_Failed, RegistryError, StorageError) as error:
        return Finding(what, "failed", str(error))
    except httpx.HTTPError as error:
        # Without the URL: a presigned one is a credential.
        return Finding(
            what,
            "failed",
            f"{type(error).__name__}: the address given to clients can't be reached from here; "
            "check REGISTRY_S3_PUBLIC_ENDPOINT_URL or REGISTRY_PUBLIC_URL, and that the server runs",
        )


def _database(settings: Settings) -> str:
    with closing(database_of(settings)) as database:
        database.require_current()
        _require_private(database.engine.url.database if database.engine.dialect.name == "sqlite" else None)
        return f"reached, schema {database.revision()}"


def _require_private(path: Path | str | None) -> None:
    """Warn about what other users of this machine can read or write; what is created now is closed to them."""
    if path is not None and (mode := Path(path).stat().st_mode & 0o077):
        only = "700" if Path(path).is_dir() else "600"
        raise _Doubtful(f"others on this machine may use {path} (mode {mode:03o}); run: chmod {only} {path}")


def _broker(url: str | None) -> str:
    if url is None:
        raise _Doubtful(
            "none is set, so jobs wait until a worker asks; set REGISTRY_BROKER_URL to wake workers at once"
        )
    import redis

    try:
        redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5).ping()
    except redis.RedisError as error:
        # Its messages name the host but never the password.
        raise _Failed(f"{type(error).__name__}: check REGISTRY_BROKER_URL and that the broker runs") from None
    return "reached"


def _storage(storage: Storage, http: httpx.Client, reopen: Callable[[int], Storage]) -> Iterator[Finding]:
    found = _try("storage: reached", lambda: _check(storage))
    yield found
    if found.outcome == "failed":
        return
    body = secrets.token_bytes(_BODY_BYTES)
    with _trial(storage, body) as name:
        taken = _try("storage: a file can be stored", lambda: _sends(storage, http, name, body))
        yield taken
        if taken.outcome == "failed":
            return
        yield _try("storage: its digest is checked", lambda: _proves(storage, name))
        yield _try("storage: it is listed", lambda: _lists(storage, name))
        yield _try("storage: it can be read back", lambda: _reads(storage, http, name, body))
        if storage.get_location(name).url.startswith("file:"):
            return
        yield _try("storage: ranges can be read", lambda: _ranges(storage, http, name, body))
        yield _try("storage: nothing is overwritten", lambda: _keeps(storage, http, name, body))
        yield _try("storage: other bytes are refused", lambda: _refuses_bytes(storage, http))
        yield _try("storage: strangers are refused", lambda: _refuses_strangers(storage, http, name))
        yield _try("storage: expired URLs are refused", lambda: _refuses_expired(reopen, http, name))
        yield _try("storage: parts are joined", lambda: _joins(storage, http))


def _check(storage: Storage) -> str:
    storage.check()
    if isinstance(storage, FolderStorage):
        _require_private(storage.root)
        free_bytes = shutil.disk_usage(storage.root).free
        if free_bytes < _LEAST_FREE_BYTES:
            raise _Doubtful(f"{free_bytes / 1e6:.0f} MB are free in {storage.root}; free some space")
        return f"{free_bytes / 1e9:.0f} GB free"
    return "yes"


@contextmanager
def _trial(storage: Storage, body: bytes) -> Iterator[str]:
    """A name for a blob that is removed afterwards."""
    name = f"{hashlib.sha256(body).hexdigest()}.{secrets.token_hex(16)}"
    try:
        yield name
    finally:
        with suppress(StorageError):
            storage.delete(name)


def _put(http: httpx.Client, to: Location, body: bytes) -> int:
    if to.url.startswith("file:"):
        return 200
    return http.put(to.url, content=body, headers={**to.headers, "Content-Length": str(len(body))}).status_code


def _require(good: bool, message: str) -> None:
    if not good:
        raise _Failed(message)


def _sends(storage: Storage, http: httpx.Client, name: str, body: bytes) -> str:
    location = storage.put_location(name, len(body))
    if location.url.startswith("file:"):
        storage.put(name, len(body), iter([body]))
    else:
        status = _put(http, location, body)
        _require(
            200 <= status < 300,
            f"HTTP {status} to a signed PUT; check the keys' permissions, the region, and that the clocks agree",
        )
    _require(storage.stat(name) is not None, "what was sent is missing afterwards; use another store")
    return "by copying" if location.url.startswith("file:") else "by a signed PUT"


def _proves(storage: Storage, name: str) -> str:
    if isinstance(storage, FolderStorage):
        return "the registry hashes every file"
    stat = storage.stat(name)
    if stat is None or stat.sha256 is None:
        raise _Doubtful("the store reports no SHA-256, so the registry reads every file once more to hash it")
    _require(stat.sha256 == name[:64], "the store reports a SHA-256 that is not that of the bytes; use another store")
    return "the store computes SHA-256"


def _lists(storage: Storage, name: str) -> str:
    # One prefix would be enough, but the contract has none: the first result ends the search.
    _require(name in storage.list(), "a stored file is not listed; allow s3:ListBucket, which `gc` needs")
    return "yes"


def _reads(storage: Storage, http: httpx.Client, name: str, body: bytes) -> str:
    location = storage.get_location(name)
    if location.url.startswith("file:"):
        with storage.open(name) as chunks:
            _require(b"".join(chunks) == body, "other bytes came back; check the disk")
        return "by copying"
    answer = http.get(location.url, headers=location.headers)
    _require(answer.is_success, f"HTTP {answer.status_code} to a signed GET; allow s3:GetObject")
    _require(answer.content == body, "other bytes came back; something between here and the store changes them")
    return "by a signed GET"


def _ranges(storage: Storage, http: httpx.Client, name: str, body: bytes) -> str:
    location = storage.get_location(name)
    headers = {**location.headers, "Range": "bytes=10-19"}
    etag = http.get(location.url, headers=headers).headers.get("etag", "")
    answer = http.get(location.url, headers={**headers, "If-Match": etag})
    if (answer.status_code, answer.content) != (206, body[10:20]):
        raise _Doubtful(
            f"HTTP {answer.status_code} to a range: an interrupted pull would start over instead of continuing"
        )
    status = http.get(location.url, headers={**headers, "If-Match": '"another"'}).status_code
    _require(status == 412, f"HTTP {status} to If-Match with another ETag, not 412; use another store")
    return "with If-Match"


def _keeps(storage: Storage, http: httpx.Client, name: str, body: bytes) -> str:
    status = _put(http, storage.put_location(name, len(body)), body)
    with storage.open(name) as chunks:
        _require(b"".join(chunks) == body, "a stored file was replaced by others; use another store")
    if isinstance(storage, FolderStorage):
        return "only the same bytes are accepted"
    _require(
        status == 412,
        f"HTTP {status} to a second PUT with If-None-Match, not 412: files can be replaced; use another store",
    )
    return "If-None-Match holds"


def _refuses_bytes(storage: Storage, http: httpx.Client) -> str:
    body = secrets.token_bytes(1000)
    with _trial(storage, body) as name:
        status = _put(http, storage.put_location(name, len(body)), bytes(len(body)))
        _require(
            not 200 <= status < 300 and storage.stat(name) is None,
            f"HTTP {status}: bytes were stored whose SHA-256 is not the one signed; use a store that checks it",
        )
    return f"HTTP {status}"


def _refuses_strangers(storage: Storage, http: httpx.Client, name: str) -> str:
    location = storage.get_location(name)
    bare = location.url.partition("?")[0]
    last = location.url[-1]
    for url in (bare, location.url[:-1] + ("0" if last != "0" else "1")):
        status = http.get(url, headers=location.headers).status_code
        _require(
            not 200 <= status < 300,
            f"HTTP {status} without a valid signature: anybody can read; give the store identities, and the bucket no "
            "public access",
        )
    return "unsigned and forged requests"


def _refuses_expired(reopen: Callable[[int], Storage], http: httpx.Client, name: str) -> str:
    with closing(reopen(1)) as brief:
        location = brief.get_location(name)
    time.sleep(2.2)
    status = http.get(location.url, headers=location.headers).status_code
    _require(not 200 <= status < 300, f"HTTP {status} to a URL that has expired; use a store that checks it")
    return "after its second"


def _joins(storage: Storage, http: httpx.Client) -> str:
    parts = {1: secrets.token_bytes(_PART_BYTES), 2: b"the rest"}
    digests = {number: hashlib.sha256(part).hexdigest() for number, part in parts.items()}
    with _trial(storage, b"".join(parts.values())) as name:
        parts_id = storage.begin_parts(name)
        for number, part in parts.items():
            status = _put(http, storage.part_location(name, parts_id, number, digests[number], len(part)), part)
            _require(
                200 <= status < 300,
                f"HTTP {status} to part {number} of a file; allow s3:PutObject and s3:ListMultipartUploadParts",
            )
        storage.join_parts(name, parts_id, digests)
        stat = storage.stat(name)
        _require(
            stat is not None and stat.size_bytes == sum(map(len, parts.values())),
            "the parts of a file did not become a file; use another store",
        )
    return "2 parts"
