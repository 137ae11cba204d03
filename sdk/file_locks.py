"""Locks between processes, which end with the process that holds them, however it ends.

What is locked is a file, which is made if it is missing, or a folder. A process may hand the lock to a child, which
holds it as long as it keeps the descriptor open.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path


@contextmanager
def locked(
    path: Path, *, shared: bool = False, timeout_s: float | None = None, mode: int = 0o600, is_made: bool = True
) -> Iterator[int]:
    """Hold the lock of a file for the block; yield its descriptor. No link is followed. Unless it `is_made`, what is missing is
    an error.

    Once it is held, the file still has that name: a previous holder may have removed or renamed it, and then the lock
    is that of a new file. Raises BlockingIOError if it isn't free within `timeout_s`; OSError.
    """
    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | (os.O_CREAT if is_made else 0)
    while True:
        descriptor = os.open(path, flags | os.O_NOFOLLOW, mode)
        try:
            if deadline_s is None:
                fcntl.flock(descriptor, how)
            else:
                _try_until(deadline_s, descriptor, how)
            if _is_at(descriptor, path):
                yield descriptor
                return
        finally:
            os.close(descriptor)


@contextmanager
def locked_if_free(path: Path, *, is_made: bool = True) -> Iterator[bool]:
    """Hold the lock of a file for the block, or yield False if another process holds it. Raises OSError."""
    with ExitStack() as held:
        try:
            held.enter_context(locked(path, timeout_s=0.0, is_made=is_made))
        except BlockingIOError:
            yield False
            return
        yield True


def _try_until(deadline_s: float, descriptor: int, how: int) -> None:
    while True:
        try:
            return fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline_s:
                raise
        time.sleep(0.05)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False
