"""A folder for each attempt in a worker's cache, and the remains of attempts whose worker was killed.

Next to a folder is its lock, a file that its worker holds. It is made before the folder and removed after it: whenever
a worker dies, a lock that nobody holds leads to the remains.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from sdk.errors import disk_explained

_LOCK = ".lock"


class Folders:
    """The folders of attempts below one folder, which several workers may share."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @contextmanager
    def make(self, name: str) -> Iterator[Path]:
        """A new folder whose name begins with `name`, removed at the end of the block."""
        with disk_explained("preparing the job"):
            self._root.mkdir(parents=True, exist_ok=True)
            lock, held = self._lock(name)
        with held:
            folder = lock.with_suffix("")
            try:
                with disk_explained("preparing the job"):
                    folder.mkdir(mode=0o700)
                yield folder
            finally:
                _remove(folder, lock)

    def sweep(self) -> None:
        """Remove what attempts of killed workers left."""
        for lock in self._root.glob(f"*{_LOCK}"):
            try:
                with lock.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _remove(lock.with_suffix(""), lock)
            except OSError:
                # Another process works there, or it has just been removed.
                continue

    def _lock(self, name: str) -> tuple[Path, BinaryIO]:
        """Make a lock and hold it."""
        while True:
            lock = self._root / f"{name}-{secrets.token_hex(4)}{_LOCK}"
            file = lock.open("xb")
            fcntl.flock(file, fcntl.LOCK_EX)
            # Between the two, a cleanup may have mistaken it for a dead worker's.
            if lock.exists():
                return lock, file
            file.close()


def _remove(folder: Path, lock: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if not os.path.lexists(folder):
        lock.unlink(missing_ok=True)
