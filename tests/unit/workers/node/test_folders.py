"""Attempts' folders: whenever a worker dies, the next one finds what it left."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sdk.errors import Unavailable
from workers.node.attempt_folders import Folders

#: Makes a folder with files in it and is killed when it calls what the second argument names, half done or before.
_KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from workers.node.attempt_folders import Folders

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def half(folder, **_):
    for path in sorted(Path(folder).iterdir())[:2]:
        path.unlink()
    die()

root, moment = Path(sys.argv[1]), sys.argv[2]
if moment == "mkdir":
    os.mkdir = die
    Path.mkdir = lambda self, *a, **k: die() if self != root else None
with Folders(root).make("job-1") as folder:
    for number in range(4):
        (folder / f"file-{number}").write_bytes(b"x")
    if moment == "work":
        die()
    if moment == "rmtree":
        shutil.rmtree = half
    if moment == "unlink":
        Path.unlink = die
"""


@pytest.mark.parametrize("moment", ["mkdir", "work", "rmtree", "unlink"])
def test_whenever_a_worker_is_killed_the_next_one_leaves_nothing_of_it(tmp_path: Path, moment: str) -> None:
    done = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path), moment], timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) != []
    Folders(tmp_path).sweep()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_the_owners_alone_and_goes_with_its_block(tmp_path: Path) -> None:
    with Folders(tmp_path / "jobs").make("job-1") as folder, Folders(tmp_path / "jobs").make("job-1") as other:
        assert folder != other
        assert folder.name.startswith("job-1-")
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "file").write_bytes(b"x")
        # Others that share the cache sweep as they start.
        Folders(tmp_path / "jobs").sweep()
        assert (folder / "file").exists()
        assert other.is_dir()
    assert list((tmp_path / "jobs").iterdir()) == []


def test_a_lock_that_is_swept_before_it_is_held_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, swept = fcntl.flock, []

    def flock(file: object, how: int) -> None:
        if not swept:
            swept.append(True)
            Folders(tmp_path).sweep()
        real(file, how)  # type: ignore[arg-type]

    monkeypatch.setattr(fcntl, "flock", flock)
    with Folders(tmp_path).make("job-1") as folder:
        assert swept
        Folders(tmp_path).sweep()
        assert folder.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *_: object, **__: object) -> None:
        if path != tmp_path:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(Unavailable, match="disk is full"), Folders(tmp_path).make("job-1"):
        raise AssertionError("it was made")
    assert list(tmp_path.iterdir()) == []
