"""Every storage keeps the one contract: a folder, a folder behind HTTP, and S3 (a real SeaweedFS)."""

from __future__ import annotations

import contextlib
import doctest
import errno
import hashlib
import importlib
import os
import socket
import stat
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from support.fixtures import S3Place

from registry.storage import (
    BlobCorrupt,
    BlobMissing,
    FolderStorage,
    Location,
    S3Options,
    Storage,
    StorageError,
    StorageUnavailable,
    blob_key,
    open_storage,
)
from registry.storage.signing import Permission, kept_key, sign
from registry.storage.views import blob_routes

BODY = b"low rank, high hopes\n" * 1000
SHA256 = hashlib.sha256(BODY).hexdigest()
OTHER_BODY = BODY[:-1] + b"!"
#: Three parts, the last of which is short.
PARTS = {1: os.urandom(5 * 1024**2), 2: os.urandom(5 * 1024**2), 3: b"the rest"}
DIGESTS = {number: hashlib.sha256(part).hexdigest() for number, part in PARTS.items()}
NAME = f"{hashlib.sha256(b''.join(PARTS.values())).hexdigest()}.{'0c' * 16}"
KEY = bytes(range(32))

HOSTILE = [
    "",
    "ab",
    SHA256.upper(),
    SHA256 + "0",
    SHA256[:-1],
    SHA256 + "\n",
    "../" * 21 + "x",
    "g" * 64,
    "/" + SHA256[1:],
    "\u0661" * 64,
    SHA256[:-1] + "\0",
    SHA256 + "." + "0" * 31,
    SHA256 + "." + "0" * 33,
    SHA256 + "/" + "0" * 32,
    SHA256 + ".parts-" + "0" * 26,
]


@dataclass(frozen=True)
class World:
    """One kind of storage, and how to open another view of the same place."""

    storage: Storage
    #: The same place with another life of its locations, in seconds.
    reopen: Callable[[int], Storage]


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """Serve an application over real HTTP on a free port, and give its URL."""
    config = uvicorn.Config(app, log_level="error", lifespan="off", ws="none", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[World]:
    root = tmp_path / "sto rage"

    def reopen(expires_in_s: int) -> Storage:
        return open_storage(root.as_uri(), expires_in_s=expires_in_s)

    with reopen(900) as storage:
        yield World(storage, reopen)


@pytest.fixture
def folder_http(tmp_path: Path) -> Iterator[World]:
    app = FastAPI()
    with served(app) as url:

        def reopen(expires_in_s: int) -> FolderStorage:
            return FolderStorage(tmp_path / "storage", public_url=url, signing_key=KEY, expires_in_s=expires_in_s)

        storage = reopen(900)
        app.include_router(blob_routes(storage))
        yield World(storage, reopen)


@pytest.fixture
def seaweed(s3: S3Place) -> Iterator[World]:
    opened: list[Storage] = []

    def reopen(expires_in_s: int) -> Storage:
        opened.append(open_s3(s3, expires_in_s=expires_in_s))
        return opened[-1]

    yield World(reopen(900), reopen)
    for storage in opened:
        storage.close()


def open_s3(
    s3: S3Place,
    *,
    url: str | None = None,
    endpoint_url: str | None = None,
    public_endpoint_url: str | None = None,
    secret_key: str | None = None,
    expires_in_s: int = 900,
    **more: Any,
) -> Storage:
    """Open a place in S3, with settings of it changed."""
    return open_storage(
        url or s3.url,
        s3=S3Options(
            endpoint_url=endpoint_url or s3.endpoint_url,
            public_endpoint_url=public_endpoint_url,
            access_key=s3.access_key,
            secret_key=secret_key or s3.secret_key,
            **more,
        ),
        expires_in_s=expires_in_s,
    )


@pytest.fixture(params=["folder", "folder_http", "seaweed"])
def world(request: pytest.FixtureRequest) -> World:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, World)
    return found


@pytest.fixture(params=["folder_http", "seaweed"])
def signed(request: pytest.FixtureRequest) -> World:
    """Storages whose locations are signed URLs. A plain folder's are paths, and whoever can use one needs no permission."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, World)
    return found


@pytest.fixture
def storage(world: World) -> Storage:
    return world.storage


def send(location: Location, body: bytes, **changed: str) -> int:
    """Send a blob to where it belongs, as the SDK does, and return the HTTP status (201 for a folder)."""
    if location.url.startswith("file:"):
        path = path_of(location)
        partial = path.with_name(path.name + ".partial-test")
        partial.write_bytes(body)
        partial.rename(path)
        return 201
    headers = location.headers | {"Content-Length": str(len(body))} | changed
    return httpx.put(location.url, content=iter([body]), headers=headers, timeout=60).status_code


def fetch(location: Location) -> bytes | None:
    """Read a blob from where it lies; None where there is none."""
    if location.url.startswith("file:"):
        path = path_of(location)
        return path.read_bytes() if path.exists() else None
    answer = httpx.get(location.url, headers=location.headers, timeout=60)
    assert answer.status_code in {200, 404}
    return answer.content if answer.status_code == 200 else None


def path_of(location: Location) -> Path:
    return Path(unquote(urlsplit(location.url).path))


def read(storage: Storage, sha256: str) -> bytes:
    with storage.open(sha256) as chunks:
        return b"".join(chunks)


def keep(storage: Storage, body: bytes = BODY) -> str:
    sha256 = hashlib.sha256(body).hexdigest()
    storage.put(sha256, len(body), iter([body[:10], body[10:]]))
    return sha256


def part_location(storage: Storage, parts_id: str, number: int, part: bytes) -> Location:
    return storage.part_location(NAME, parts_id, number, hashlib.sha256(part).hexdigest(), len(part))


def send_part(storage: Storage, parts_id: str, number: int, part: bytes, *, body: bytes | None = None) -> int:
    """Send a part, or other bytes in its place, and return the HTTP status."""
    return send(part_location(storage, parts_id, number, part), part if body is None else body)


class TestStorage:
    @pytest.mark.parametrize("body", [b"", b"x", BODY, os.urandom(5 * 1024 * 1024 + 1)], ids=len)
    def test_what_is_sent_to_a_location_comes_back(self, storage: Storage, body: bytes) -> None:
        sha256 = hashlib.sha256(body).hexdigest()
        assert storage.stat(sha256) is None
        assert send(storage.put_location(sha256, len(body)), body) in {200, 201}
        found = storage.stat(sha256)
        assert found is not None
        assert found.size_bytes == len(body)
        assert found.sha256 in {sha256, None}
        assert abs(found.modified_at - datetime.now(UTC)) < timedelta(minutes=1)
        assert read(storage, sha256) == body
        assert fetch(storage.get_location(sha256)) == body

    @pytest.mark.parametrize("body", [b"", BODY], ids=len)
    def test_what_is_put_from_here_comes_back(self, storage: Storage, body: bytes) -> None:
        sha256 = keep(storage, body)
        assert read(storage, sha256) == body
        assert fetch(storage.get_location(sha256)) == body

    def test_a_second_put_is_harmless(self, storage: Storage) -> None:
        keep(storage)
        keep(storage)
        assert send(storage.put_location(SHA256, len(BODY)), BODY) in {200, 201, 412}
        assert list(storage.list()) == [SHA256]
        assert read(storage, SHA256) == BODY

    @pytest.mark.parametrize("body", [OTHER_BODY, BODY[:-1], BODY + b"x", b""], ids=["other", "short", "long", "empty"])
    def test_a_put_of_other_bytes_is_refused(self, storage: Storage, body: bytes) -> None:
        with pytest.raises(BlobCorrupt, match=r"Upload (it|the file) again\.$"):
            storage.put(SHA256, len(BODY), iter([body]))
        assert storage.stat(SHA256) is None
        assert list(storage.list()) == []

    def test_a_put_of_another_size_is_refused(self, storage: Storage) -> None:
        with pytest.raises(BlobCorrupt):
            storage.put(SHA256, len(BODY) + 1, iter([BODY]))
        assert storage.stat(SHA256) is None

    def test_a_put_of_other_bytes_leaves_what_is_there(self, storage: Storage) -> None:
        keep(storage)
        with pytest.raises(BlobCorrupt):
            storage.put(SHA256, len(BODY), iter([OTHER_BODY]))
        assert read(storage, SHA256) == BODY

    def test_a_put_that_breaks_off_leaves_nothing(self, storage: Storage) -> None:
        def broken() -> Iterator[bytes]:
            yield BODY[:100]
            raise ConnectionError("gone")

        # The source's own error reaches the caller: it is not the storage that is unavailable.
        with pytest.raises(ConnectionError, match="gone"):
            storage.put(SHA256, len(BODY), broken())
        assert storage.stat(SHA256) is None
        assert list(storage.list()) == []
        assert storage.sweep(older_than_s=-60) == 0

    def test_a_missing_blob_is_missing(self, storage: Storage) -> None:
        assert storage.stat(SHA256) is None
        with pytest.raises(BlobMissing, match=SHA256), storage.open(SHA256):
            pass
        assert fetch(storage.get_location(SHA256)) is None
        storage.delete(SHA256)

    def test_a_deleted_blob_is_gone_and_can_come_back(self, storage: Storage) -> None:
        keep(storage)
        storage.delete(SHA256)
        assert storage.stat(SHA256) is None
        assert list(storage.list()) == []
        keep(storage)
        assert read(storage, SHA256) == BODY

    def test_the_list_is_whole_and_in_order(self, storage: Storage) -> None:
        kept = [keep(storage, bytes([number])) for number in range(12)]
        assert list(storage.list()) == sorted(kept)

    def test_uploads_of_one_digest_lie_apart(self, storage: Storage) -> None:
        first, second = (f"{SHA256}.{place * 16}" for place in ("0a", "0b"))
        for name in (second, first):
            assert send(storage.put_location(name, len(BODY)), BODY) in {200, 201}
        keep(storage)
        assert list(storage.list()) == [SHA256, first, second]
        storage.delete(first)
        assert fetch(storage.get_location(first)) is None
        assert (read(storage, second), fetch(storage.get_location(second))) == (BODY, BODY)
        storage.put(first, len(BODY), iter([BODY]))
        assert read(storage, first) == BODY

    def test_a_blob_can_be_left_half_read(self, storage: Storage) -> None:
        body = os.urandom(3 * 1024 * 1024)
        sha256 = keep(storage, body)
        with storage.open(sha256) as chunks:
            first = next(chunks)
        assert body.startswith(first)
        assert 0 < len(first) <= 1024 * 1024
        assert read(storage, sha256) == body

    @pytest.mark.parametrize("sha256", HOSTILE)
    def test_a_digest_that_is_none_is_refused(self, storage: Storage, sha256: str) -> None:
        calls: list[Callable[[], object]] = [
            lambda: storage.put_location(sha256, 1),
            lambda: storage.get_location(sha256),
            lambda: storage.stat(sha256),
            lambda: storage.open(sha256).__enter__(),
            lambda: storage.put(sha256, 1, iter([b"x"])),
            lambda: storage.delete(sha256),
        ]
        for call in calls:
            with pytest.raises(StorageError, match="64 lower-case hexadecimal digits"):
                call()

    def test_a_healthy_store_passes_its_check(self, storage: Storage) -> None:
        storage.check()
        assert list(storage.list()) == []

    def test_nothing_is_held_whole_in_memory(self, storage: Storage) -> None:
        chunk, count = os.urandom(1024 * 1024), 48
        sha256 = hashlib.sha256(chunk * count).hexdigest()
        tracemalloc.start()
        try:
            storage.put(sha256, len(chunk) * count, (chunk for _ in range(count)))
            with storage.open(sha256) as chunks:
                assert sum(map(len, chunks)) == len(chunk) * count
            location = storage.get_location(sha256)
            if location.url.startswith("http"):
                storage.delete(sha256)
                target = storage.put_location(sha256, len(chunk) * count)
                body = (chunk for _ in range(count))
                assert httpx.put(target.url, content=body, headers=target.headers, timeout=60).is_success
                with httpx.stream("GET", location.url, timeout=60) as answer:
                    assert sum(map(len, answer.iter_bytes())) == len(chunk) * count
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak_bytes < len(chunk) * count / 2

    # Locations that are signed URLs.

    @pytest.mark.parametrize("body", [OTHER_BODY, BODY[:-1], BODY + b"x", b""], ids=["other", "short", "long", "empty"])
    def test_other_bytes_are_refused_at_a_location(self, signed: World, body: bytes) -> None:
        storage = signed.storage
        assert send(storage.put_location(SHA256, len(BODY)), body) in {400, 403}
        assert storage.stat(SHA256) is None
        keep(storage)
        assert send(storage.put_location(SHA256, len(BODY)), body) in {400, 403, 412}
        assert read(storage, SHA256) == BODY

    def test_a_body_shorter_than_it_claims_is_not_stored(self, signed: World) -> None:
        location = signed.storage.put_location(SHA256, len(BODY))
        target = urlsplit(location.url)
        with socket.create_connection((target.hostname or "", target.port or 0), timeout=10) as connection:
            head = [f"PUT {target.path}?{target.query} HTTP/1.1", f"Host: {target.netloc}"]
            head += [f"{name}: {value}" for name, value in location.headers.items()]
            connection.sendall("\r\n".join([*head, "", ""]).encode() + BODY[:500])
        time.sleep(0.5)
        assert signed.storage.stat(SHA256) is None
        assert signed.storage.sweep(older_than_s=-60) == 0

    def test_a_changed_url_is_refused(self, signed: World) -> None:
        keep(signed.storage)
        other = keep(signed.storage, OTHER_BODY)
        fresh = hashlib.sha256(b"fresh").hexdigest()
        get, put = signed.storage.get_location(SHA256), signed.storage.put_location(fresh, 5)
        for url in [*changed(get.url), get.url.replace(SHA256, other)]:
            assert httpx.get(url).status_code in {400, 403}, url
        for url in [*changed(put.url), put.url.replace(fresh, SHA256), get.url.replace(SHA256, fresh)]:
            status = httpx.put(url, content=b"fresh", headers=put.headers).status_code
            assert status in {400, 403}, url
        assert signed.storage.stat(fresh) is None

    def test_a_url_is_good_for_its_own_method_only(self, signed: World) -> None:
        keep(signed.storage)
        put, get = signed.storage.put_location(SHA256, len(BODY)), signed.storage.get_location(SHA256)
        assert httpx.get(put.url).status_code == 403
        assert send(get, BODY) == 403
        assert httpx.delete(get.url).status_code in {403, 405}
        assert httpx.delete(put.url).status_code in {403, 405}
        assert read(signed.storage, SHA256) == BODY

    def test_an_expired_url_is_refused(self, signed: World) -> None:
        keep(signed.storage)
        brief = signed.reopen(1)
        fresh = hashlib.sha256(b"fresh").hexdigest()
        get, put = brief.get_location(SHA256), brief.put_location(fresh, 5)
        assert get.expires_in_s == put.expires_in_s == 1
        time.sleep(2.1)
        assert httpx.get(get.url).status_code == 403
        assert send(put, b"fresh") == 403
        assert signed.storage.stat(fresh) is None

    def test_one_range_of_one_state_can_be_read(self, signed: World) -> None:
        keep(signed.storage)
        url = signed.storage.get_location(SHA256).url
        etag = httpx.get(url).headers["etag"]

        def ask(byte_range: str, if_match: str = etag) -> httpx.Response:
            return httpx.get(url, headers={"Range": byte_range, "If-Match": if_match})

        size_bytes = len(BODY)
        for byte_range, first, last in [
            ("bytes=5-9", 5, 9),
            ("bytes=0-0", 0, 0),
            (f"bytes={size_bytes - 3}-", size_bytes - 3, size_bytes - 1),
            ("bytes=-4", size_bytes - 4, size_bytes - 1),
            (f"bytes=10-{size_bytes * 2}", 10, size_bytes - 1),
        ]:
            answer = ask(byte_range)
            assert answer.status_code == 206, byte_range
            assert answer.content == BODY[first : last + 1], byte_range
            assert answer.headers["content-range"] == f"bytes {first}-{last}/{size_bytes}"
            assert answer.headers["etag"] == etag
        assert ask("bytes=5-9", if_match='"another"').status_code == 412
        assert ask(f"bytes={size_bytes}-").status_code == 416

    # Parts.

    def test_parts_arrive_in_any_order_and_become_the_blob(self, signed: World) -> None:
        storage, parts_id = signed.storage, signed.storage.begin_parts(NAME)
        assert storage.sent_parts(NAME, parts_id) == {}
        for number in (3, 1, 2):
            assert send_part(storage, parts_id, number, PARTS[number]) == 200
        assert send_part(storage, parts_id, 2, PARTS[2]) == 200
        assert storage.sent_parts(NAME, parts_id) == {number: len(part) for number, part in PARTS.items()}
        assert storage.stat(NAME) is None
        assert list(storage.list()) == []
        storage.join_parts(NAME, parts_id, DIGESTS)
        found = storage.stat(NAME)
        assert found is not None
        # A digest of digests proves nothing about the whole.
        assert (found.size_bytes, found.sha256) == (sum(map(len, PARTS.values())), None)
        assert read(storage, NAME) == b"".join(PARTS.values())
        assert list(storage.list()) == [NAME]
        with pytest.raises(BlobMissing):
            storage.sent_parts(NAME, parts_id)
        assert storage.sweep(older_than_s=-60) == 0

    def test_a_part_takes_its_own_bytes_alone(self, signed: World) -> None:
        storage, parts_id = signed.storage, signed.storage.begin_parts(NAME)
        other = bytes(len(PARTS[1]))
        for body in (other, PARTS[1][:-1], PARTS[1] + b"x"):
            assert send_part(storage, parts_id, 1, PARTS[1], body=body) in {400, 403}
        location = part_location(storage, parts_id, 1, PARTS[1])
        for url in changed(location.url):
            assert httpx.put(url, content=PARTS[1], headers=location.headers).status_code in {400, 403, 404}, url
        assert send(location, PARTS[1]) == 200
        assert storage.sent_parts(NAME, parts_id) == {1: len(PARTS[1])}

    def test_parts_that_nobody_joined_are_swept(self, signed: World) -> None:
        storage, parts_id = signed.storage, signed.storage.begin_parts(NAME)
        assert send_part(storage, parts_id, 1, PARTS[1]) == 200
        assert storage.sweep(older_than_s=3600) == 0
        assert storage.sweep(older_than_s=-60, dry_run=True) == 1
        assert storage.sent_parts(NAME, parts_id) == {1: len(PARTS[1])}
        assert storage.sweep(older_than_s=-60) == 1
        with pytest.raises(BlobMissing):
            storage.sent_parts(NAME, parts_id)
        with pytest.raises(BlobMissing):
            storage.join_parts(NAME, parts_id, DIGESTS)
        assert send_part(storage, parts_id, 2, PARTS[2]) == 404
        assert storage.sweep(older_than_s=-60) == 0

    def test_a_location_does_not_show_its_signature(self, world: World) -> None:
        for location in (world.storage.get_location(SHA256), world.storage.put_location(SHA256, len(BODY))):
            query = urlsplit(location.url).query
            assert bool(query) == location.url.startswith("http")
            for text in (repr(location), str(location), f"{[location]}"):
                assert SHA256 in text
                assert not any(part and part in text for part in query.split("&"))


def changed(url: str) -> list[str]:
    """Return the URL unsigned, and with every character class of its query changed in turn."""
    head, _, query = url.partition("?")
    pairs = [pair.partition("=") for pair in query.split("&")]
    urls = [head, f"{head}?"]
    for number, (name, _, value) in enumerate(pairs):
        others = [pairs[other] for other in range(len(pairs)) if other != number]
        last = "1" if value[-1] != "1" else "2"
        for pair in ([], [(name, "=", value[:-1] + last)], [(name, "=", "")]):
            urls.append(f"{head}?" + "&".join("".join(item) for item in [*others, *pair]))
    return urls


class TestFolder:
    def test_a_blob_lies_under_its_digest_in_the_open(self, folder: World) -> None:
        location = folder.storage.put_location(SHA256, len(BODY))
        assert location.headers == {}
        assert location.expires_in_s is None
        path = path_of(location)
        assert path.parts[-4:] == ("blobs", "sha256", SHA256[:2], SHA256)
        assert path.parent.is_dir()
        assert folder.storage.get_location(SHA256).url == location.url

    def test_bytes_from_outside_are_never_said_to_be_proven(self, folder: World) -> None:
        send(folder.storage.put_location(SHA256, len(BODY)), OTHER_BODY)
        found = folder.storage.stat(SHA256)
        assert found is not None
        assert found.sha256 is None
        # A put of the right bytes does not trust what lies there, and mends it.
        keep(folder.storage)
        assert read(folder.storage, SHA256) == BODY

    def test_half_written_and_foreign_files_are_not_listed(self, folder: World) -> None:
        keep(folder.storage)
        path = path_of(folder.storage.get_location(SHA256))
        half = path.with_name(f"{SHA256}.partial-0011")
        half.write_bytes(b"half")
        (path.parent / "README").write_text("not a blob")
        (path.parent / ("0" * 64)).write_text("a digest in the wrong folder")
        assert list(folder.storage.list()) == [SHA256]
        assert folder.storage.sweep(older_than_s=3600) == 0
        assert folder.storage.sweep(older_than_s=-60) == 1
        assert not half.exists()
        assert read(folder.storage, SHA256) == BODY

    def test_a_full_disk_is_said_and_leaves_nothing(self, folder: World, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(StorageUnavailable, match=r"No space left on device\. Free some space"):
            keep(folder.storage)
        assert folder.storage.sweep(older_than_s=-60) == 0
        assert folder.storage.stat(SHA256) is None

    def test_what_is_made_is_its_owners_alone(self, tmp_path: Path) -> None:
        root = tmp_path / "new"
        usual = os.umask(0)
        try:
            storage = FolderStorage(root, public_url="http://registry", signing_key=b"k" * 32, part_bytes=1)
            storage.check()
            storage.put_location(SHA256, len(BODY))
            keep(storage)
            parts_id = storage.begin_parts(NAME)
            with storage.part_writer(Permission("PUT", NAME, len(BODY), parts_id, 1, SHA256)) as part:
                part.write(BODY)
                part.commit()
            storage.join_parts(NAME, parts_id, {1: SHA256})
        finally:
            os.umask(usual)
        assert stat.S_IMODE(root.stat().st_mode) == 0o700
        files = [path for path in root.rglob("*") if path.is_file()]
        assert len(files) == 2
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
        assert {stat.S_IMODE(path.parent.stat().st_mode) for path in files} == {0o700}

    def test_a_folder_that_cannot_be_made_fails_its_check(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        with pytest.raises(StorageUnavailable, match="Check that the registry may use it"):
            FolderStorage(tmp_path / "file" / "storage").check()

    def test_settings_that_cannot_work_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(StorageError, match="both"):
            FolderStorage(tmp_path, public_url="http://registry")
        with pytest.raises(StorageError, match="too short"):
            FolderStorage(tmp_path, public_url="http://registry", signing_key=b"secret")
        with pytest.raises(StorageError, match="absolute"):
            FolderStorage(Path("storage"))
        with pytest.raises(StorageError, match="signing key"):
            blob_routes(FolderStorage(tmp_path))

    def test_the_kept_key_is_random_private_and_the_same_for_all(self, tmp_path: Path) -> None:
        path = tmp_path / "storage" / "signing.key"
        found: list[bytes] = []
        threads = [threading.Thread(target=lambda: found.append(kept_key(path))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 8
        assert set(found) == {kept_key(path)}
        assert kept_key(tmp_path / "other.key") not in found
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert list(path.parent.iterdir()) == [path]
        path.write_text("no key")
        with pytest.raises(StorageUnavailable, match="Remove the file"):
            kept_key(path)


class TestFolderBehindHTTP:
    def test_a_refusal_is_one_error_body_that_gives_nothing_away(self, folder_http: World) -> None:
        url = folder_http.storage.get_location(SHA256).url
        answer = httpx.get(url.replace("sig=", "sig=0"))
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "forbidden"
        assert urlsplit(url).query.rpartition("sig=")[2] not in answer.text

    def test_every_part_of_a_url_is_signed(self, folder_http: World) -> None:
        keep(folder_http.storage)
        fresh = hashlib.sha256(b"fresh").hexdigest()
        for url in changed(folder_http.storage.get_location(SHA256).url):
            assert httpx.get(url).status_code == 403, url
        for url in changed(folder_http.storage.put_location(fresh, 5).url):
            assert httpx.put(url, content=b"fresh").status_code == 403, url

    def test_wrong_bytes_are_named(self, folder_http: World) -> None:
        location = folder_http.storage.put_location(SHA256, len(BODY))
        error = httpx.put(location.url, content=OTHER_BODY).json()["error"]
        assert error["code"] == "verification"
        assert hashlib.sha256(OTHER_BODY).hexdigest() in error["message"]

    def test_a_body_of_unknown_length_is_refused(self, folder_http: World) -> None:
        location = folder_http.storage.put_location(SHA256, len(BODY))
        assert httpx.put(location.url, content=iter([BODY])).status_code == 400
        assert folder_http.storage.stat(SHA256) is None

    @pytest.mark.parametrize("sha256", [digest for digest in HOSTILE if digest.isascii() and digest.isprintable()])
    def test_even_a_signed_digest_must_be_one(self, folder_http: World, sha256: str) -> None:
        url = urlsplit(folder_http.storage.get_location(SHA256).url)
        expires_at_s = int(time.time()) + 60
        query = urlencode(sign(KEY, Permission("GET", sha256), expires_at_s=expires_at_s))
        answer = httpx.get(f"{url.scheme}://{url.netloc}/api/v1/blobs/{sha256}?{query}")
        assert answer.status_code in {400, 404}

    def test_ranges_that_mean_nothing_give_the_whole(self, folder_http: World) -> None:
        keep(folder_http.storage)
        url = folder_http.storage.get_location(SHA256).url
        for byte_range in ("bytes=9-5", "bytes=0-1,4-5", "lines=1-2", "bytes=-", "bytes=a-b"):
            answer = httpx.get(url, headers={"Range": byte_range})
            assert (answer.status_code, answer.content) == (200, BODY), byte_range
        stale = httpx.get(url, headers={"Range": "bytes=0-1", "If-Range": '"another"'})
        assert (stale.status_code, stale.content) == (200, BODY)
        assert httpx.get(url, headers={"If-Match": "*"}).status_code == 200
        assert httpx.get(url, headers={"If-Match": f'W/"{SHA256}"'}).status_code == 412

    def test_an_empty_blob_has_no_ranges(self, folder_http: World) -> None:
        url = folder_http.storage.get_location(keep(folder_http.storage, b"")).url
        assert httpx.get(url).content == b""
        for byte_range in ("bytes=0-0", "bytes=-1", "bytes=-0"):
            assert httpx.get(url, headers={"Range": byte_range}).status_code == 416, byte_range


class TestS3:
    def test_whoever_comes_unsigned_is_refused(self, seaweed: World, s3: S3Place) -> None:
        keep(seaweed.storage)
        bucket = f"{s3.endpoint_url}/{s3.bucket}"
        blob = f"{bucket}/{s3.prefix}/{blob_key(SHA256)}"
        assert httpx.get(bucket).status_code == 403
        assert httpx.get(f"{s3.endpoint_url}/").status_code == 403
        for method in ("GET", "HEAD", "PUT", "DELETE", "POST"):
            assert httpx.request(method, blob).status_code in {403, 405}, method
        assert httpx.put(f"{bucket}/{s3.prefix}/new", content=b"x").status_code == 403
        assert read(seaweed.storage, SHA256) == BODY

    def test_the_store_proves_the_digest_itself(self, seaweed: World) -> None:
        keep(seaweed.storage)
        found = seaweed.storage.stat(SHA256)
        assert found is not None
        assert found.sha256 == SHA256

    def test_size_digest_and_no_overwrite_are_signed(self, seaweed: World) -> None:
        query = parse_qs(urlsplit(seaweed.storage.put_location(SHA256, len(BODY)).url).query)
        signed_headers = query["X-Amz-SignedHeaders"][0].split(";")
        assert {"content-length", "if-none-match", "x-amz-checksum-sha256"} <= set(signed_headers)
        assert query["X-Amz-Expires"] == ["900"]

    @pytest.mark.parametrize("missing", ["x-amz-checksum-sha256", "If-None-Match"])
    def test_no_signed_header_can_be_left_out(self, seaweed: World, missing: str) -> None:
        location = seaweed.storage.put_location(SHA256, len(BODY))
        headers = {name: value for name, value in location.headers.items() if name != missing}
        assert httpx.put(location.url, content=BODY, headers=headers).status_code in {400, 403}
        assert seaweed.storage.stat(SHA256) is None

    def test_presigned_urls_carry_the_public_endpoint(self, s3: S3Place) -> None:
        with open_s3(s3, public_endpoint_url="https://blobs.example.org") as storage:
            for location in (storage.get_location(SHA256), storage.put_location(SHA256, 1)):
                assert location.url.startswith(f"https://blobs.example.org/{s3.bucket}/{s3.prefix}/blobs/sha256/")
            keep(storage)

    def test_a_store_that_cannot_be_used_fails_its_check_and_shows_no_secret(self, s3: S3Place) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            silent = f"http://127.0.0.1:{listener.getsockname()[1]}"
        wrong = [
            open_s3(s3, url="s3://no-such-bucket"),
            open_s3(s3, secret_key="0" * 48),
            open_s3(s3, endpoint_url=silent),
        ]
        for storage, what in zip(wrong, ["does not exist", "403", "REGISTRY_S3_ENDPOINT_URL"], strict=True):
            with storage, pytest.raises(StorageUnavailable, match=what) as caught:
                storage.check()
            assert s3.secret_key not in str(caught.value)
            assert "Signature=" not in str(caught.value)

    @pytest.mark.alone
    def test_a_store_that_says_nothing_is_waited_for_once_and_not_for_long(self, s3: S3Place) -> None:
        # As a stopped one: its kernel takes connections and what is sent.
        with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
            silent = f"http://127.0.0.1:{listener.getsockname()[1]}"
            with open_s3(s3, endpoint_url=silent, deadline_s=1.0) as storage:
                began = time.monotonic()
                with pytest.raises(StorageUnavailable, match="does not answer"):
                    storage.stat(SHA256)
                assert time.monotonic() - began < 2
                with ThreadPoolExecutor(32) as pool:
                    began = time.monotonic()
                    asked = [pool.submit(storage.stat, SHA256) for _ in range(200)]
                    assert all(isinstance(one.exception(), StorageUnavailable) for one in asked)
                # One of them asked again, the others were told.
                assert time.monotonic() - began < 2
                # What is signed here needs no store.
                assert storage.get_location(SHA256).url

    @pytest.mark.alone
    def test_threads_that_wait_for_the_store_are_few(self, s3: S3Place) -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
            silent = f"http://127.0.0.1:{listener.getsockname()[1]}"
            with open_s3(s3, endpoint_url=silent, deadline_s=6.0) as storage, ThreadPoolExecutor(40) as pool:
                began = time.monotonic()
                asked = [pool.submit(storage.stat, SHA256) for _ in range(40)]
                waiting, refused = 0, 0
                for one in as_completed(asked):
                    assert isinstance(one.exception(), StorageUnavailable)
                    refused += time.monotonic() - began < 2
                    waiting += time.monotonic() - began >= 2
                assert (waiting, refused) == (16, 24)

    @pytest.mark.alone
    def test_bytes_have_no_deadline_while_they_come_and_may_not_stand_still(self, s3: S3Place) -> None:
        size, piece = 3_000_000, 300_000

        def send_slowly(listener: socket.socket, pieces: int) -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nETag: x\r\nConnection: close\r\n\r\n"
                connection.sendall(head.encode())
                for _ in range(pieces):
                    time.sleep(0.2)
                    connection.sendall(bytes(piece))
                # Until the reader gives up.
                connection.settimeout(20)
                with contextlib.suppress(OSError):
                    connection.recv(1)

        def read_from(pieces: int) -> int:
            with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
                url = f"http://127.0.0.1:{listener.getsockname()[1]}"
                sending = pool.submit(send_slowly, listener, pieces)
                try:
                    with (
                        open_s3(s3, endpoint_url=url, deadline_s=1.0, stall_s=0.8) as storage,
                        storage.open(SHA256) as it,
                    ):
                        return sum(map(len, it))
                finally:
                    sending.result()

        # Twice the deadline in all.
        assert read_from(size // piece) == size
        with pytest.raises(StorageUnavailable, match="does not answer"):
            read_from(3)

    def test_settings_of_the_bucket_reach_every_request(self, s3: S3Place) -> None:
        options = {"encryption": "aws:kms", "kms_key_id": "key-1", "bucket_owner": "123456789012"}
        with open_s3(
            s3, public_endpoint_url="https://s3.example.org", addressing_style="virtual", **options
        ) as storage:
            put, get = storage.put_location(NAME, 5), storage.get_location(NAME)
            part = storage.part_location(NAME, "id", 1, SHA256, 5)
        assert urlsplit(put.url).netloc == f"{s3.bucket}.s3.example.org"
        assert {name: value for name, value in put.headers.items() if "encryption" in name} == {
            "x-amz-server-side-encryption": "aws:kms",
            "x-amz-server-side-encryption-aws-kms-key-id": "key-1",
        }
        for location in (put, get, part):
            assert location.headers["x-amz-expected-bucket-owner"] == "123456789012"
            signed = parse_qs(urlsplit(location.url).query)["X-Amz-SignedHeaders"][0].split(";")
            assert {name.lower() for name in location.headers} <= set(signed)

    def test_a_file_beyond_one_request_is_refused_before_it_is_sent(self, seaweed: World) -> None:
        with pytest.raises(StorageError, match="Split it into shards"):
            seaweed.storage.put_location(SHA256, 5 * 1024**3 + 1)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/data",
        "file:data",
        "file://host/data",
        "s3://",
        "s3:///prefix",
        "s3://key:secret@bucket",
        "s3://bucket/a/../b",
        "s3://bucket/a//b",
        "s3://bucket?x=y",
        "gs://bucket",
    ],
)
def test_a_storage_url_of_another_shape_is_refused(url: str) -> None:
    with pytest.raises(StorageError) as caught:
        open_storage(url)
    assert "secret" not in str(caught.value)
    assert "s3://bucket" in str(caught.value) or "file:///data" in str(caught.value)


@pytest.mark.parametrize("module", ["registry.storage", "registry.storage.protocol", "registry.storage.signing"])
def test_the_examples_run(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0
    assert result.failed == 0
