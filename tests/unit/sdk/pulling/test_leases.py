"""Leases: what is in use stays, whoever is killed and whenever, until somebody says that it isn't used any more."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from sdk.errors import Conflict, InvalidInput, NotFound
from sdk.formats.manifest import Contents, File
from sdk.process_starts import process_started_at
from sdk.pulling import leases
from sdk.pulling.cache import MARKER, Cache
from sdk.pulling.cache_maintenance import CacheEntry, entries, plan_prune, prune, verify
from sdk.pulling.filling import fill
from sdk.pulling.http import HttpClient
from sdk.pulling.leases import FolderLease, all_leases, lease, leased, leases_of, release, release_as_shown
from sdk.pulling.transfer import hash_file

OWNER = "serve-8011"


class Shelf:
    """A cache with one version, whose bytes come from nowhere else than its own blobs."""

    def __init__(self, root: Path) -> None:
        self.cache = Cache(root)
        path = root / "file"
        root.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"weights")
        sha256, size_bytes = hash_file(path)
        path.unlink()
        self.contents = Contents("adapter", "f" * 64, (File("weights.bin", size_bytes, sha256),))
        self.digest = self.contents.digest
        self.folder = self.cache.version(self.digest)
        self.fill()

    def fill(self, owner: str | None = None, *, checked: bool = False) -> Path:
        (file,) = self.contents.files
        blob = self.cache.blob(file.sha256)
        blob.parent.mkdir(parents=True, exist_ok=True)
        if not blob.exists():
            blob.write_bytes(b"weights")
        return fill(
            self.cache,
            self.contents,
            lambda _digest: pytest.fail("fetched"),
            HttpClient(),
            checked=checked,
            owner=owner,
        )

    def prune(self) -> list[str]:
        """Remove everything; return what stayed, by whom."""
        _, held = prune(self.cache, plan_prune(self._found(), keep=0))
        return [one.owner for entry in held for one in entry.leases]

    def _found(self) -> list[CacheEntry]:
        return entries(self.cache)

    @property
    def is_whole(self) -> bool:
        return self.cache.has_version(self.contents)


class Unaware(Shelf):
    """Plans to prune before there were leases, as one does who looked a moment too early."""

    def _found(self) -> list[CacheEntry]:
        from dataclasses import replace

        return [replace(entry, leases=()) for entry in super()._found()]


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "cache")


@pytest.fixture
def unaware(tmp_path: Path) -> Unaware:
    return Unaware(tmp_path / "cache")


def damage(shelf: Shelf) -> None:
    path = shelf.folder / "weights.bin"
    path.unlink()
    path.write_bytes(b"WEIGHTS")


class TestLease:
    def test_a_lease_says_whose_it_is_and_is_renewed(self, shelf: Shelf) -> None:
        held = lease(shelf.cache, shelf.digest, OWNER)
        assert held.folder == shelf.folder
        (view,) = leased(shelf.cache, shelf.digest)
        assert (view.owner, view.host, view.pid, view.is_running) == (OWNER, socket.gethostname(), os.getpid(), True)
        path = next((shelf.cache.root / "leases" / shelf.digest).iterdir())
        path.write_text(json.dumps({**json.loads(path.read_text()), "since": "2026-01-01T00:00:00Z"}))
        lease(shelf.cache, shelf.digest, OWNER)
        (again,) = leased(shelf.cache, shelf.digest)
        assert (again.since, again.renewed >= view.renewed) == ("2026-01-01T00:00:00Z", True)

    def test_a_lease_ends_by_release_and_others_stay(self, shelf: Shelf) -> None:
        first, second = (lease(shelf.cache, shelf.digest, owner) for owner in ("a", "b"))
        first.release()
        first.release()
        assert not release(shelf.cache, shelf.digest, "a")
        assert shelf.prune() == []
        assert shelf.is_whole
        second.release()
        shelf.prune()
        assert not shelf.folder.exists()
        assert all_leases(shelf.cache) == {}
        assert list((shelf.cache.root / "leases").iterdir()) == []

    def test_what_is_not_there_is_not_leased(self, shelf: Shelf) -> None:
        with pytest.raises(NotFound, match="cache list"):
            lease(shelf.cache, "0" * 64, OWNER)
        assert leased(shelf.cache, "0" * 64) == []
        with pytest.raises(NotFound):
            lease(shelf.cache, "0" * 64, OWNER, kind="base")

    @pytest.mark.parametrize("name", ["", "a/b", "../a", ".a", "a@b", "a" * 101, "a b", "ä"])
    def test_other_names_are_no_owners(self, shelf: Shelf, name: str) -> None:
        with pytest.raises(InvalidInput, match="1 to 100 letters"):
            lease(shelf.cache, shelf.digest, name)

    def test_machines_that_share_a_cache_have_leases_of_their_own(
        self, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lease(shelf.cache, shelf.digest, OWNER)
        monkeypatch.setattr(leases.socket, "gethostname", lambda: "other host/1")
        lease(shelf.cache, shelf.digest, OWNER)
        assert [one.is_running for one in leased(shelf.cache, shelf.digest)] == [True, None] or [
            one.is_running for one in leased(shelf.cache, shelf.digest)
        ] == [None, True]
        assert len(leases_of(shelf.cache, OWNER)) == 1
        release(shelf.cache, shelf.digest, OWNER)
        (left,) = leased(shelf.cache, shelf.digest)
        assert left.host != "other host/1"
        assert release_as_shown(shelf.cache, left)

    def test_a_damaged_lease_holds_all_the_same(self, unaware: Unaware) -> None:
        lease(unaware.cache, unaware.digest, OWNER)
        (path,) = (unaware.cache.root / "leases" / unaware.digest).iterdir()
        for content in (b"", b"{", b"[]", b'{"owner": "x"}', b"\xff"):
            path.write_bytes(content)
            (view,) = leased(unaware.cache, unaware.digest)
            assert view.is_running is None
            assert "can't be read" in str(view)
            assert unaware.prune() == [view.owner]
        assert release_as_shown(unaware.cache, view)
        assert leased(unaware.cache, unaware.digest) == []

    def test_a_lease_is_on_the_disk_before_the_folder_is_given(
        self, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        synced = []
        fsync = os.fsync

        def note(descriptor: int) -> None:
            synced.append(os.readlink(f"/proc/self/fd/{descriptor}").removeprefix(str(shelf.cache.root)))
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", note)
        lease(shelf.cache, shelf.digest, OWNER)
        assert ".json.partial-" in synced[0]
        # The names: of the file, of its folder, and of the folder of all leases.
        assert synced[1:] == [f"/leases/{shelf.digest}", "/leases", ""]


class TestRemovers:
    def test_prune_leaves_what_is_in_use_and_says_by_whom(self, unaware: Unaware) -> None:
        lease(unaware.cache, unaware.digest, OWNER)
        assert unaware.prune() == [OWNER]
        assert unaware.is_whole
        assert unaware.cache.has_blob(unaware.contents.files[0].sha256, 7)

    def test_a_plan_counts_on_nothing_that_is_in_use(self, shelf: Shelf) -> None:
        lease(shelf.cache, shelf.digest, OWNER)
        for options in ({"keep": 0}, {"keep_days": -1}, {"max_bytes": 0}):
            plan = plan_prune(entries(shelf.cache), **options)  # type: ignore[arg-type]
            assert [entry.digest for entry in plan.removed] == []
            assert [entry.digest for entry in plan.leased] == [entry.digest for entry in plan.kept] == [shelf.digest]
        assert plan_prune(entries(shelf.cache), keep=1).leased == []

    def test_verify_leaves_a_damaged_one_that_is_in_use(self, shelf: Shelf) -> None:
        held = lease(shelf.cache, shelf.digest, OWNER)
        damage(shelf)
        (found,) = [one for one in verify(shelf.cache) if one.kind == "version"]
        assert [one.owner for one in found.leases] == [OWNER]
        assert shelf.folder.is_dir()
        held.release()
        (found,) = [one for one in verify(shelf.cache) if one.kind == "version"]
        assert found.leases == ()
        assert not shelf.folder.exists()

    def test_a_pull_leaves_a_damaged_one_that_others_use(self, shelf: Shelf) -> None:
        held = lease(shelf.cache, shelf.digest, OWNER)
        damage(shelf)
        for owner in (None, "another"):
            with pytest.raises(Conflict, match=rf"{OWNER} \(process {os.getpid()}.*cache release"):
                shelf.fill(owner, checked=True)
        assert (shelf.folder / "weights.bin").read_bytes() == b"WEIGHTS"
        # Who uses it, and asks for it again, has it mended.
        shelf.fill(OWNER, checked=True)
        assert (shelf.folder / "weights.bin").read_bytes() == b"weights"
        held.release()

    def test_a_pull_brings_back_what_somebody_removed_by_hand(self, shelf: Shelf) -> None:
        lease(shelf.cache, shelf.digest, OWNER)
        shelf.cache.remove_folder(shelf.folder)
        shelf.fill()
        assert shelf.is_whole

    def test_a_pull_that_leases_is_leased_before_anybody_could_remove_it(self, shelf: Shelf) -> None:
        shelf.prune()
        shelf.fill(OWNER)
        assert [one.owner for one in leased(shelf.cache, shelf.digest)] == [OWNER]
        release(shelf.cache, shelf.digest, OWNER)
        # Also if it was there already.
        shelf.fill("b")
        assert [one.owner for one in leased(shelf.cache, shelf.digest)] == ["b"]

    def test_a_base_and_its_weights_in_4_bits_are_held_together(self, unaware: Unaware) -> None:
        fingerprint = "b" * 64
        unaware.cache.base(fingerprint).mkdir(parents=True)
        (unaware.cache.quantized(fingerprint) / ("1" * 64)).mkdir(parents=True)
        held = lease(unaware.cache, fingerprint, "ask", kind="base")
        assert held.folder == unaware.cache.base(fingerprint)
        plan = plan_prune(unaware._found(), keep_days=-1)
        gone, stayed = prune(unaware.cache, plan)
        assert {entry.kind for entry in stayed} == {"base", "quantized"}
        assert {entry.kind for entry in gone} == {"version"}
        held.release()
        prune(unaware.cache, plan_prune(unaware._found(), keep_days=-1))
        assert entries(unaware.cache) == []

    def test_a_lease_doesn_t_wait_for_who_only_reads(self, shelf: Shelf) -> None:
        """A worker holds the folder's lock for as long as its job runs."""
        with shelf.cache.lock(shelf.digest, shared=True):
            lease(shelf.cache, shelf.digest, OWNER)
        assert leased(shelf.cache, shelf.digest)


# Processes that are killed.

#: The modules of what asks the system for something: files are opened, synced, renamed, removed, locked.
SYSTEM = ("posix", "fcntl", "io", "_io")


def killed_at(step: int, work: Callable[[], object]) -> bool:
    """Do work in a fork that kills itself before it asks the system for something the n-th time; return whether it came to its
    end.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            left = iter(range(step, 0, -1))

            def before(_frame: FrameType, event: str, called: Any) -> None:
                asks = event == "c_call" and getattr(called, "__module__", None) in SYSTEM
                if asks and next(left, 0) == 1:
                    os.kill(os.getpid(), signal.SIGKILL)

            sys.setprofile(before)
            work()
            status = 0
        except BaseException:  # noqa: BLE001 - the fork says it and ends
            traceback.print_exc()
        finally:
            sys.setprofile(None)
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    assert ended in (0, signal.SIGKILL)
    return ended == 0


def steps(work: Callable[[], object], check: Callable[[bool], object], *, every: int = 1) -> int:
    """Kill work at its first step, its second, and so on, until it is done before; check what is left after each."""
    for step in range(1, 1000, every):
        done = killed_at(step, work)
        check(done)
        if done:
            return step
    raise AssertionError("it never ends")


def test_a_killed_owner_has_a_lease_or_none(shelf: Shelf) -> None:
    def check(done: bool) -> None:
        views = leased(shelf.cache, shelf.digest)
        assert [one.owner for one in views] in ([[OWNER]] if done else [[], [OWNER]])
        assert all(one.host and one.is_running is False for one in views)
        assert shelf.is_whole
        # The lock went with its holder, and the next one takes the lease over.
        lease(shelf.cache, shelf.digest, OWNER).release()
        assert leased(shelf.cache, shelf.digest) == []

    assert steps(lambda: lease(shelf.cache, shelf.digest, OWNER), check) > 10
    shelf.prune()
    assert not (shelf.cache.root / "leases" / shelf.digest).exists()


def test_a_killed_release_leaves_a_lease_or_none(shelf: Shelf) -> None:
    def check(done: bool) -> None:
        assert len(leased(shelf.cache, shelf.digest)) in ({0} if done else {0, 1})
        lease(shelf.cache, shelf.digest, OWNER)

    check(False)
    assert steps(lambda: release(shelf.cache, shelf.digest, OWNER), check) > 1


def test_a_killed_remover_leaves_what_is_in_use(unaware: Unaware) -> None:
    lease(unaware.cache, unaware.digest, OWNER)

    def check(_done: bool) -> None:
        assert unaware.is_whole
        assert [one.owner for one in leased(unaware.cache, unaware.digest)] == [OWNER]

    assert steps(unaware.prune, check, every=3) > 10


def test_what_a_killed_remover_leaves_is_leased_whole_or_not_at_all(shelf: Shelf) -> None:
    def check(_done: bool) -> None:
        if shelf.folder.exists():
            assert shelf.is_whole
            lease(shelf.cache, shelf.digest, OWNER).release()
        else:
            with pytest.raises(NotFound):
                lease(shelf.cache, shelf.digest, OWNER)
            shelf.fill()

    assert steps(shelf.prune, check, every=3) > 10


_REMOVER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from unit_leases import Unaware
shelf = Unaware(Path(sys.argv[1]))
print("ready", flush=True)
while True:
    shelf.prune()
    shelf.fill()
"""


def test_a_lease_holds_against_a_remover_that_works_at_the_same_time(unaware: Unaware, tmp_path: Path) -> None:
    (tmp_path / "unit_leases.py").symlink_to(__file__)
    command = [sys.executable, "-c", _REMOVER, str(unaware.cache.root), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as remover:
        assert remover.stdout is not None
        assert remover.stdout.readline() == b"ready\n"
        got = missed = 0
        while got < 25:
            try:
                held: FolderLease = lease(unaware.cache, unaware.digest, OWNER)
            except NotFound:
                missed += 1
                continue
            got += 1
            for _ in range(5):
                assert (held.folder / "weights.bin").read_bytes() == b"weights"
                assert (held.folder / MARKER).is_file()
            held.release()
        remover.kill()
    assert process_started_at(remover.pid) is None
