"""Every storage keeps the one contract: a folder, a folder behind HTTP, and S3."""

from __future__ import annotations

import hashlib
import os
import socket
import time
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import httpx
import pytest
from contract.storage.helpers import (
    BODY,
    HOSTILE,
    NAME,
    OTHER_BODY,
    PARTS,
    SHA256,
    World,
    changed,
    keep,
    path_of,
    read,
    send,
)

from registry.storage import (
    BlobCorrupt,
    BlobMissing,
    Location,
    Storage,
    StorageError,
)

DIGESTS = {number: hashlib.sha256(part).hexdigest() for number, part in PARTS.items()}


def fetch(location: Location) -> bytes | None:
    """Read a blob from where it lies; None where there is none."""
    if location.url.startswith("file:"):
        path = path_of(location)
        return path.read_bytes() if path.exists() else None
    answer = httpx.get(location.url, headers=location.headers, timeout=60)
    assert answer.status_code in {200, 404}
    return answer.content if answer.status_code == 200 else None


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

    def test_a_part_of_a_blob_is_read_by_itself(self, storage: Storage) -> None:
        body = os.urandom(3 * 1024 * 1024)
        sha256 = keep(storage, body)
        for begin, end in ((0, 8), (1024 * 1024 - 3, 1024 * 1024 + 5), (len(body) - 4, len(body) + 100)):
            assert storage.read_part(sha256, begin, end) == body[begin:end]
        with pytest.raises(BlobMissing, match=SHA256):
            storage.read_part(SHA256, 0, 8)

    @pytest.mark.parametrize("sha256", HOSTILE)
    def test_a_digest_that_is_none_is_refused(self, storage: Storage, sha256: str) -> None:
        calls: list[Callable[[], object]] = [
            lambda: storage.put_location(sha256, 1),
            lambda: storage.get_location(sha256),
            lambda: storage.stat(sha256),
            lambda: storage.open(sha256).__enter__(),
            lambda: storage.read_part(sha256, 0, 1),
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
        assert storage.sweep(older_than_s=-60, keep=[parts_id]) == 0
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
