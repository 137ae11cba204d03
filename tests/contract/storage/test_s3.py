"""What S3 has to do beyond the contract."""

from __future__ import annotations

import contextlib
import socket
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from contract.storage.helpers import BODY, NAME, SHA256, World, keep, open_s3, read
from support.fixtures import S3Place

from registry.storage import (
    StorageError,
    StorageUnavailable,
    blob_key,
)


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
        with closing(open_s3(s3, public_endpoint_url="https://blobs.example.org")) as storage:
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
            with closing(storage), pytest.raises(StorageUnavailable, match=what) as caught:
                storage.check()
            assert s3.secret_key not in str(caught.value)
            assert "Signature=" not in str(caught.value)

    @pytest.mark.alone
    def test_a_store_that_says_nothing_is_waited_for_once_and_not_for_long(self, s3: S3Place) -> None:
        # As a stopped one: its kernel takes connections and what is sent.
        with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
            silent = f"http://127.0.0.1:{listener.getsockname()[1]}"
            with closing(open_s3(s3, endpoint_url=silent, deadline_s=1.0)) as storage:
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
            with closing(open_s3(s3, endpoint_url=silent, deadline_s=6.0)) as storage, ThreadPoolExecutor(40) as pool:
                began = time.monotonic()
                asked = [pool.submit(storage.stat, SHA256) for _ in range(40)]
                waiting, refused = 0, 0
                for one in as_completed(asked):
                    assert isinstance(one.exception(), StorageUnavailable)
                    refused += time.monotonic() - began < 2
                    waiting += time.monotonic() - began >= 2
                assert (waiting, refused) == (32, 8)

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
                        closing(open_s3(s3, endpoint_url=url, deadline_s=1.0, stall_s=0.8)) as storage,
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
        with closing(
            open_s3(s3, public_endpoint_url="https://s3.example.org", addressing_style="virtual", **options)
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
