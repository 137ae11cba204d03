"""Folders for temporary files of one process: with the sockets of engines, and adapters as an engine reads them.

Each is locked for as long as its process lives. One that a killed process has left is removed when the next one is made.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

from sdk.file_locks import locked, locked_if_free

_PREFIX = "adapterctl-engine-"


class PrivateFolder:
    """A folder that nobody else can enter."""

    def __init__(self, parent: str | None = None) -> None:
        """It is made in a folder for temporary files; None: the usual one. Raises OSError."""
        self._parent = Path(parent or tempfile.gettempdir())
        _remove_left(self._parent)
        self._held = ExitStack()
        self._path = self._made()

    @property
    def path(self) -> Path:
        """Where it is. Some systems remove what is old there; then it is made again. Raises OSError."""
        if not self._path.is_dir():
            self._held.close()
            self._path.mkdir(mode=0o700)
            self._held.enter_context(locked(self._path, timeout_s=0.0, is_made=False))
        return self._path

    def close(self) -> None:
        """Remove it with everything in it."""
        shutil.rmtree(self._path, ignore_errors=True)
        self._held.close()

    def _made(self) -> Path:
        while True:
            path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self._parent))
            # Another process may have removed it before it was locked: a file isn't made in its place.
            with suppress(FileNotFoundError, BlockingIOError):
                self._held.enter_context(locked(path, timeout_s=0.0, is_made=False))
                return path


def _remove_left(parent: Path) -> None:
    for path in parent.glob(f"{_PREFIX}*"):
        # Others' files may lie there too, or may just be removed.
        with suppress(OSError):
            found = path.lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid():
                with locked_if_free(path, is_made=False) as is_left:
                    if is_left:
                        shutil.rmtree(path, ignore_errors=True)
