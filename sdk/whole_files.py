"""Files and folders that get their names once they are whole: they are written beside them, and then renamed.

Each caller says whether that is enough. What somebody relies on once it has its name is `durable`: its bytes are on the
disk before it has the name, and the name is there when the call returns, also after a power cut. So are the registry's
blobs, backups, checkpoints, merges, exports, secrets, and what is pulled into a user's folder. What is made or fetched
again if it is missing or damaged, or means nothing once the machine was started again, is only whole.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

#: The errors of a rename to a name that something else has, and those of file systems without hard links.
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@contextmanager
def whole_file(target: Path, *, durable: bool, mode: int = 0o666, replace: bool = True) -> Iterator[BinaryIO]:
    """A new file that gets its name at the end of the block, as with `give_name`; if that fails, nothing is left.

    Raises OSError.
    """
    partial = target.with_name(f"{target.name[:100]}.partial-{os.urandom(4).hex()}")
    try:
        with open(partial, "xb", opener=lambda path, flags: os.open(path, flags, mode)) as file:
            yield file
        give_name(partial, target, durable=durable, replace=replace)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(target: Path, content: bytes | str, *, durable: bool, mode: int = 0o666, replace: bool = True) -> None:
    """Write a file whole or not at all; a text as UTF-8. Raises OSError."""
    with whole_file(target, durable=durable, mode=mode, replace=replace) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def give_name(written: Path, target: Path, *, durable: bool, replace: bool = True) -> None:
    """Rename a whole file, or a folder with all of its files. A folder replaces nothing but an empty one.

    Raises OSError: FileExistsError if something that is not replaced has the name; without `replace`, any file.
    """
    is_folder = written.is_dir()
    if durable:
        sync(*(path for path in (written.rglob("*") if is_folder else ()) if not path.is_symlink()), written)
    try:
        if replace or is_folder:
            written.replace(target)
        else:
            _link(written, target)
    except OSError as error:
        if error.errno in _TAKEN:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        raise
    if durable:
        sync(target.parent)


def _link(written: Path, target: Path) -> None:
    """Rename a file by a link, which unlike a rename never replaces a file that was made meanwhile."""
    try:
        target.hardlink_to(written)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        written.replace(target)
    else:
        written.unlink()


def sync(*paths: Path) -> None:
    """Have the disk store what was written to files, and the names in folders. Raises OSError."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
