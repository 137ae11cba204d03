"""What a folder has to do beyond the contract, alone and behind HTTP."""

from __future__ import annotations

import doctest
import errno
import hashlib
import importlib
import os
import stat
import threading
import time
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import httpx
import pytest
from contract.storage.helpers import (
    BODY,
    HOSTILE,
    KEY,
    NAME,
    OTHER_BODY,
    SHA256,
    World,
    changed,
    keep,
    path_of,
    read,
    send,
)

from registry.storage import (
    FolderStorage,
    StorageError,
    StorageUnavailable,
    open_storage,
)
from registry.storage.signing import Permission, kept_key, sign
from registry.storage.views import blob_routes


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
