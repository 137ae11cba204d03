"""The cache is shared by processes: what two of them want is fetched once, and is whole when it has its name."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.ranges import Fault, RangeServer, range_server

from sdk.formats.manifest import Contents, File
from sdk.formats.refs import Ref
from sdk.pulling.cache import MARKER, Cache
from sdk.pulling.cache_maintenance import entries, plan_prune, prune, verify
from sdk.pulling.filling import fill
from sdk.pulling.http import HttpClient
from sdk.pulling.pins import Pins, all_refs
from sdk.pulling.source import BlobUrl
from sdk.pulling.transfer import folder_whole


def test_a_fetch_that_fails_leaves_no_folder(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")

    def fail() -> None:
        with folder_whole(cache.version("a" * 64), durable=False) as partial:
            (partial / "file").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list((tmp_path / "cache/versions").iterdir()) == []


def test_what_the_cache_takes(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    assert cache.size_bytes() == 0
    with folder_whole(cache.version("a" * 64), durable=False) as partial:
        (partial / "file").write_bytes(b"x" * 1000)
    assert cache.size_bytes() == 1000


class TestPrivacy:
    """Whatever the umask says, and whoever made the folder: nobody else looks into the cache."""

    @pytest.fixture(autouse=True)
    def _open_handed(self) -> Iterator[None]:
        before = os.umask(0)
        yield
        os.umask(before)

    def test_a_new_one_is_its_owner_s_alone(self, tmp_path: Path) -> None:
        cache = Cache(tmp_path / "deep" / "cache")
        with cache.lock("something"):
            assert mode(cache.root) == 0o700
        (tmp_path / "rows").write_text("x")
        other = Cache(tmp_path / "other")
        other.sha256_of(tmp_path / "rows")
        assert mode(other.root) == 0o700

    def test_one_that_was_open_is_closed_when_it_is_used(self, tmp_path: Path) -> None:
        root = tmp_path / "cache"
        for part in ("blobs", "versions"):
            (root / part / "x").mkdir(parents=True)
        assert {mode(root), mode(root / "blobs")} == {0o777}
        with Cache(root).lock("something"):
            closed = {path.name for path in root.iterdir() if mode(path) == 0o700}
        assert closed == {
            "aliases",
            "bases",
            "blobs",
            "engines",
            "hashes",
            "hub",
            "jobs",
            "leases",
            "locks",
            "names",
            "quantized",
            "refs",
            "versions",
        }
        # It may be anybody's folder, with other things in it.
        assert mode(root) == 0o777

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's folder")
    def test_another_user_s_is_left_as_it_is(self, tmp_path: Path) -> None:
        root = tmp_path / "cache"
        (root / "blobs").mkdir(parents=True)
        os.chown(root / "blobs", 12345, 12345)
        Cache(root).keep_private()
        assert mode(root / "blobs") == 0o777

    def test_where_a_link_leads_is_left_as_it_is(self, tmp_path: Path) -> None:
        (tmp_path / "public").mkdir()
        (tmp_path / "cache").mkdir()
        (tmp_path / "cache" / "blobs").symlink_to(tmp_path / "public")
        Cache(tmp_path / "cache").keep_private()
        assert mode(tmp_path / "public") == 0o777


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class Shop:
    """Versions that a server has, and the cache that they are pulled into."""

    def __init__(self, server: RangeServer, folder: Path) -> None:
        self.server, self.cache, self.http = server, Cache(folder / "cache"), HttpClient()
        self.pins = Pins(self.cache, "http://registry")

    def make(self, **files: bytes) -> Contents:
        """Describe a version of some files, and serve them."""
        entries = []
        for name, content in files.items():
            sha256 = hashlib.sha256(content).hexdigest()
            self.server.objects[sha256] = content
            entries.append(File(f"{name}.bin", len(content), sha256))
        return Contents("adapter", "f" * 64, tuple(sorted(entries, key=lambda file: file.path)))

    def locate(self, contents: Contents) -> list[BlobUrl]:
        return [BlobUrl(f.sha256, f.size_bytes, self.server.url(f.sha256), {}) for f in contents.files]

    def fill(self, contents: Contents, *, number: int | None = None, age_s: float = 0) -> Path:
        """Pull a version, as if so long ago."""
        folder = fill(self.cache, contents, lambda _digest: self.locate(contents), self.http)
        if number is not None:
            self.pins.remember("a", number, contents.digest)
        then = time.time() - age_s
        os.utime(folder / MARKER, (then, then))
        for file in contents.files:
            os.utime(self.cache.blob(file.sha256), (then, then))
        return folder

    @property
    def blobs(self) -> set[str]:
        return {path.name for path in (self.cache.root / "blobs").rglob("*") if path.is_file()}


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with range_server() as server:
        shop = Shop(server, tmp_path)
        yield shop
        shop.http.close()


def test_a_version_is_made_of_links_that_nobody_may_write_to(shop: Shop) -> None:
    contents = shop.make(one=b"1" * 1000, two=b"2" * 1000, same=b"1" * 1000)
    folder = shop.fill(contents)
    assert len(shop.server.requests) == 2
    blob = shop.cache.blob(contents.files[0].sha256)
    assert (folder / "one.bin").samefile(blob)
    assert (folder / "same.bin").samefile(blob)
    assert {path.stat().st_mode & 0o777 for path in (blob, folder / "two.bin")} == {0o444}
    assert (folder / MARKER).read_bytes() == contents.canonical()
    shop.fill(contents)
    assert len(shop.server.requests) == 2


def test_without_links_a_version_is_made_of_copies(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    contents = shop.make(one=b"1" * 1000)
    folder = shop.fill(contents)
    assert (folder / "one.bin").read_bytes() == b"1" * 1000
    assert (folder / "one.bin").stat().st_mode & 0o777 == 0o444
    assert not (folder / "one.bin").samefile(shop.cache.blob(contents.files[0].sha256))


def test_versions_share_blobs(shop: Shop) -> None:
    shop.fill(shop.make(one=b"1" * 1000, shared=b"s" * 1000))
    shop.fill(shop.make(two=b"2" * 1000, shared=b"s" * 1000))
    assert len(shop.server.requests) == 3


def test_what_was_cut_or_lost_is_put_together_again(shop: Shop) -> None:
    contents = shop.make(one=b"1" * 1000, two=b"2" * 1000)
    folder = shop.fill(contents)
    (folder / "one.bin").chmod(0o644)
    (folder / "one.bin").write_bytes(b"1")
    assert shop.fill(contents) == folder
    assert (folder / "one.bin").read_bytes() == b"1" * 1000
    # Only what was damaged is fetched.
    assert len(shop.server.requests) == 3
    (folder / "two.bin").unlink()
    shop.fill(contents)
    assert (folder / "two.bin").read_bytes() == b"2" * 1000
    assert len(shop.server.requests) == 3
    (folder / MARKER).unlink()
    os.utime(folder)
    shop.fill(contents)
    assert [path.name for path in shop.cache.versions.iterdir()] == [contents.digest]


def test_a_blob_that_was_altered_is_not_used_for_another_version(shop: Shop) -> None:
    shop.fill(shop.make(one=b"1" * 1000))
    other = shop.make(one=b"1" * 1000, two=b"2")
    blob = shop.cache.blob(other.files[0].sha256)
    blob.chmod(0o644)
    blob.write_bytes(b"x" * 1000)
    assert (shop.fill(other) / "one.bin").read_bytes() == b"1" * 1000


PULL = """
import sys
from pathlib import Path
from sdk.pulling.cache import Cache
from sdk.formats.manifest import Contents
from sdk.pulling.source import BlobUrl
from sdk.pulling.http import HttpClient
from sdk.pulling.filling import fill
root, url, text = sys.argv[1:]
contents = Contents.read(text.encode())
places = [BlobUrl(f.sha256, f.size_bytes, url.replace("NAME", f.sha256), {}) for f in contents.files]
print(fill(Cache(Path(root)), contents, lambda _digest: places, HttpClient()))
"""


def _puller(shop: Shop, contents: Contents) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PULL, str(shop.cache.root), shop.server.url("NAME"), contents.canonical().decode()]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_sixteen_processes_transfer_one_version_once(shop: Shop) -> None:
    shop.server.script = lambda _request: Fault(slow_s=0.005)
    contents = shop.make(one=os.urandom(2_000_000), two=b"2")
    processes = [_puller(shop, contents) for _ in range(16)]
    assert {process.communicate()[0].strip() for process in processes} == {str(shop.cache.version(contents.digest))}
    assert {process.returncode for process in processes} == {0}
    assert len(shop.server.requests) == 2
    assert shop.server.sent_bytes == 2_000_001
    assert shop.blobs == {file.sha256 for file in contents.files}


def test_two_versions_that_are_pulled_at_once_share_the_transfer(shop: Shop) -> None:
    shop.server.script = lambda _request: Fault(slow_s=0.01)
    shared = os.urandom(2_000_000)
    versions = [shop.make(shared=shared, own=name) for name in (b"one", b"two")]
    processes = [_puller(shop, contents) for contents in versions]
    assert [process.communicate() and process.returncode for process in processes] == [0, 0]
    assert len(shop.server.requests) == 3
    assert shop.blobs == {file.sha256 for contents in versions for file in contents.files}


# Listing, hashing again, taking away.


def test_what_is_in_the_cache(shop: Shop) -> None:
    assert entries(shop.cache) == []
    older, newer = shop.make(one=b"1" * 1000), shop.make(two=b"2" * 500)
    shop.fill(older, number=1, age_s=3600)
    shop.fill(newer, number=2)
    loose = shop.cache.blob(hashlib.sha256(b"rows").hexdigest())
    loose.parent.mkdir(parents=True, exist_ok=True)
    loose.write_bytes(b"rows")
    os.utime(loose, (0, 0))
    (shop.cache.base("b" * 64)).mkdir(parents=True)
    found = entries(shop.cache)
    assert [(entry.kind, entry.refs) for entry in found if entry.kind == "version"] == [
        ("version", ("a@v2",)),
        ("version", ("a@v1",)),
    ]
    assert {entry.kind for entry in found} == {"version", "base", "blob"}
    assert (found[-1].kind, found[-1].last_used) == ("blob", "1970-01-01T00:00:00Z")


def test_weights_in_4_bits_are_listed_one_by_one_and_go_like_bases(shop: Shop) -> None:
    fingerprint = "b" * 64
    # A killed process left a half of one.
    for name, age_s in (("1" * 64, 40 * 86_400), (".partial", 50 * 86_400), ("2" * 64, 0)):
        entry = shop.cache.quantized(fingerprint) / name
        entry.mkdir(parents=True)
        (entry / "model.safetensors").write_bytes(b"4" * 1000)
        os.utime(entry, (time.time() - age_s,) * 2)
    (shop.cache.quantized(fingerprint) / ".lock").touch()
    assert [(entry.kind, entry.digest, entry.size_bytes) for entry in entries(shop.cache)] == [
        ("quantized", fingerprint, 1000)
    ] * 3
    plan = plan_prune(entries(shop.cache), keep_days=30)
    assert plan.size_bytes == 2000
    # An attempt holds the base as long as it lasts, and its weights in 4 bits with it.
    with shop.cache.lock(f"base-{fingerprint}", shared=True):
        assert prune(shop.cache, plan) == ([], plan.removed)
    assert prune(shop.cache, plan) == (plan.removed, [])
    assert [entry.path.name for entry in entries(shop.cache)] == ["2" * 64]
    assert prune(shop.cache, plan_prune(entries(shop.cache), max_bytes=0))[1] == []
    assert entries(shop.cache) == []


def test_use_is_remembered(shop: Shop) -> None:
    contents = shop.make(one=b"1")
    shop.fill(contents, age_s=86_400)
    before = entries(shop.cache)[0].used_s
    fill(shop.cache, contents, lambda _digest: [], shop.http)
    assert entries(shop.cache)[0].used_s > before + 86_000


def test_what_is_damaged_is_named_and_taken_away(shop: Shop) -> None:
    sound, altered, added = (shop.make(**{name: name.encode() * 500}) for name in ("one", "two", "three"))
    for contents in (sound, altered, added):
        shop.fill(contents)
    file = shop.cache.version(altered.digest) / "two.bin"
    file.chmod(0o644)
    file.write_bytes(b"x" * file.stat().st_size)
    (shop.cache.version(added.digest) / ".hidden").write_text("x")
    damaged = {one.digest: one.what for one in verify(shop.cache)}
    assert damaged.keys() == {altered.digest, added.digest}
    assert altered.files[0].sha256 in damaged[altered.digest]
    assert ".hidden" in damaged[added.digest]
    assert [path.name for path in shop.cache.versions.iterdir()] == [sound.digest]
    # The blob whose bytes are right stays.
    assert shop.blobs == {sound.files[0].sha256, added.files[0].sha256}
    assert verify(shop.cache) == []
    shop.fill(altered)
    assert verify(shop.cache) == []


def _prune(shop: Shop, **options: Any) -> tuple[list[str], list[str]]:
    gone, held = prune(shop.cache, plan_prune(entries(shop.cache), **options))
    return [entry.digest for entry in gone], [entry.digest for entry in held]


def test_versions_that_were_not_used_go(shop: Shop) -> None:
    versions = [shop.make(own=bytes([n]) * 1000, shared=b"s" * 1000) for n in range(4)]
    for n, contents in enumerate(versions):
        shop.fill(contents, number=n + 1, age_s=n * 86_400 + 60)
    plan = plan_prune(entries(shop.cache), keep=2)
    assert [entry.digest for entry in plan.removed] == [versions[2].digest, versions[3].digest]
    # What a version that stays shares is not given back.
    assert plan.size_bytes == 2000
    assert _prune(shop, keep=2) == ([versions[2].digest, versions[3].digest], [])
    assert shop.blobs == {file.sha256 for contents in versions[:2] for file in contents.files}
    assert _prune(shop, keep_days=1) == ([versions[1].digest], [])
    assert verify(shop.cache) == []
    shop.fill(versions[1], age_s=86_400)
    assert _prune(shop, max_bytes=2500) == ([versions[1].digest], [])
    assert _prune(shop, max_bytes=0) == ([versions[0].digest], [])
    assert shop.blobs == set()


def test_what_was_used_within_the_days_stays(shop: Shop) -> None:
    within, before = shop.make(one=b"1"), shop.make(two=b"2")
    shop.fill(within, age_s=6.9 * 86_400)
    shop.fill(before, age_s=7.1 * 86_400)
    assert _prune(shop, keep_days=7) == ([before.digest], [])


def test_loose_blobs_go_after_a_day(shop: Shop) -> None:
    for content, age_s in ((b"new", 60), (b"old", 100_000)):
        blob = shop.cache.blob(hashlib.sha256(content).hexdigest())
        blob.parent.mkdir(parents=True)
        blob.write_bytes(content)
        blob.with_name(f"{blob.name}.partial").write_bytes(content)
        for path in (blob, blob.with_name(f"{blob.name}.partial")):
            os.utime(path, (time.time() - age_s,) * 2)
    old, new = (hashlib.sha256(content).hexdigest() for content in (b"old", b"new"))
    assert _prune(shop, keep=10) == ([old], [])
    assert shop.blobs == {new, f"{new}.partial"}


HOLD = """
import sys
from pathlib import Path
from sdk.pulling.cache import Cache
root, name, shared = sys.argv[1:]
with Cache(Path(root)).lock(name, shared=bool(shared)):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("what", ["version", "filling"])
def test_what_another_process_holds_stays(what: str, shop: Shop) -> None:
    contents = shop.make(one=b"1" * 1000)
    folder = shop.fill(contents, age_s=100)
    name = contents.digest if what == "version" else "filling"
    command = [sys.executable, "-c", HOLD, str(shop.cache.root), name, "shared"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        gone, held = _prune(shop, keep=0)
        assert (gone, held) == (([], [contents.digest]) if what == "version" else ([contents.digest], []))
        assert folder.exists() == (what == "version")
        # Whoever fills a folder may be about to link this blob.
        assert shop.blobs == {contents.files[0].sha256}
        process.communicate("")
    assert _prune(shop, keep=0)[1] == []
    assert not folder.exists()


# Refs that were pulled.


def test_refs_that_cant_move_are_remembered(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    pins = Pins(cache, "http://one")
    one, two = "1" * 64, "2" * 64
    pins.remember("team/a", 3, one)
    pins.remember("team/a", None, two)
    pins.remember("team/a", 12, two)
    assert pins.digest(Ref.parse("team/a@v3")) == one
    assert pins.digest(Ref.parse("team/a@v12")) == two
    assert pins.digest(Ref.parse(f"team/a@sha256:{two[:12]}")) == two
    for unknown in ("team/a@v4", "team/a", "team/a@production", "a@v3", "team/a@sha256:333333333333"):
        assert pins.digest(Ref.parse(unknown)) is None
    assert Pins(cache, "http://two").digest(Ref.parse("team/a@v3")) is None
    assert pins.newest("team/a") == "team/a@v12"
    assert pins.newest("b") is None
    assert all_refs(cache) == {one: ["team/a@v3"], two: ["team/a@sha256:222222222222", "team/a@v12"]}


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b'{"refs": []}', b'{"adapter": "a", "refs": {"v1": "x"}}', b"\xff"]
)
def test_a_damaged_index_is_written_anew(content: bytes, tmp_path: Path) -> None:
    pins = Pins(Cache(tmp_path), "http://one")
    pins.remember("a", 1, "1" * 64)
    (path,) = (tmp_path / "refs").rglob("*.json")
    path.write_bytes(content)
    assert pins.digest(Ref.parse("a@v1")) is None
    pins.remember("a", 2, "2" * 64)
    assert pins.newest("a") == "a@v2"
