"""Locks between processes: exclusive and shared, handed to a child, of files that others remove or rename."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sdk.file_locks import locked, locked_if_free

_HOLD = """
import sys, time
from pathlib import Path
from sdk.file_locks import locked
with locked(Path(sys.argv[1]), timeout_s=0):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_lock_goes_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    with subprocess.Popen([sys.executable, "-c", _HOLD, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(BlockingIOError), locked(path, timeout_s=0.1):
            pass
        with locked_if_free(path) as free:
            assert not free
        holder.send_signal(signal.SIGKILL)
        with locked(path, timeout_s=30):
            pass


def test_a_shared_lock_keeps_only_exclusive_ones_out(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    with locked(path, shared=True), locked(path, shared=True, timeout_s=0), locked_if_free(path) as free:
        assert not free
    with locked(path), pytest.raises(BlockingIOError), locked(path, shared=True, timeout_s=0):
        pass


def test_a_child_keeps_the_lock_that_it_was_handed(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    with locked(path) as descriptor:
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=(descriptor,))
    with child:
        with locked_if_free(path) as free:
            assert not free
        child.stdin.close()
        with locked(path, timeout_s=30):
            pass


def test_a_folder_is_locked_and_a_link_is_not_followed(tmp_path: Path) -> None:
    with locked(tmp_path), locked_if_free(tmp_path) as free:
        assert not free
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"), locked(tmp_path / "link"):
        pass
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("timeout_s", [None, 30])
def test_a_lock_whose_file_went_while_it_was_waited_for_is_that_of_a_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, timeout_s: float | None
) -> None:
    path, real, opened = tmp_path / "x.lock", fcntl.flock, threading.Event()
    held: list[os.stat_result] = []

    def flock(descriptor: int, how: int) -> None:
        opened.set()
        real(descriptor, how)

    def wait() -> None:
        with locked(path, timeout_s=timeout_s) as descriptor:
            held.extend((os.fstat(descriptor), path.stat()))

    waiter = threading.Thread(target=wait)
    with locked(path):
        monkeypatch.setattr(fcntl, "flock", flock)
        waiter.start()
        assert opened.wait(30)
        path.rename(tmp_path / "renamed")
    waiter.join()
    assert os.path.samestat(*held)
    assert not os.path.samestat(held[0], (tmp_path / "renamed").stat())
