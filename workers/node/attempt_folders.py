"""A folder for each attempt in a worker's cache, and the remains of attempts whose worker was killed.

Next to a folder is its lock, a file that its worker holds. It is made before the folder and removed after it: whenever
a worker dies, a lock that nobody holds leads to the remains.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from sdk.errors import disk_explained
from sdk.file_locks import locked

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
            folder = self._root / f"{name}-{secrets.token_hex(4)}"
            lock = folder.with_name(f"{folder.name}{_LOCK}")
        with ExitStack() as held:
            with disk_explained("preparing the job"):
                held.enter_context(locked(lock))
            try:
                with disk_explained("preparing the job"):
                    folder.mkdir(mode=0o700)
                yield folder
            finally:
                _remove(folder, lock)

    def sweep(self) -> None:
        """Remove what attempts of killed workers left."""
        for lock in self._root.glob(f"*{_LOCK}"):
            # Another process may work there.
            with suppress(OSError), locked(lock, timeout_s=0):
                _remove(lock.with_suffix(""), lock)


def _remove(folder: Path, lock: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if not os.path.lexists(folder):
        lock.unlink(missing_ok=True)
