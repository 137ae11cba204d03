"""Where an export is written: beside its future name, which it gets once it is whole, unless something else has it."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sdk.config import user_path
from sdk.errors import Conflict, InvalidInput, place_explained

_PARTIAL = ".partial"
#: The errors of file systems without hard links.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def free(output: str | Path, *, like: str) -> Path:
    """Return the path of an output, whose name looks like `like`: "FILE.gguf", "DIR".

    Raises InvalidInput for a name that can't be used, Conflict if something has that name.
    """
    if not str(output):
        raise InvalidInput(f"the output has no name; give one with -o {like}", param="output")
    target = user_path(output).absolute()
    with place_explained(target):
        if target.exists() or target.is_symlink():
            raise Conflict(f"{target} already exists; remove it, or give another name with -o", param="output")
    suffix = Path(like).suffix
    if not target.name.endswith(suffix):
        raise InvalidInput(f"{target.name} does not end in {suffix}; call it {target.name}{suffix}", param="output")
    return target


def require_utf8(*paths: Path | str) -> None:
    """Raise InvalidInput for a path that can't be passed to the program, because it is not UTF-8."""
    for path in paths:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise InvalidInput(
                f"the path {str(path)!a} is not UTF-8; rename it, then export again", param="target"
            ) from None


@contextmanager
def beside(target: Path) -> Iterator[Path]:
    """A folder beside a future file, removed at the end of the block; what killed calls left is removed first."""
    with place_explained(target):
        partial = _new_partial(target)
    try:
        with _held(partial):
            yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def give_name(written: Path, target: Path) -> None:
    """Give a file or a folder its name. Raises Conflict if something has that name by now."""
    with place_explained(target):
        if written.is_dir():
            _give_folder_name(written, target)
        else:
            written.chmod(0o644)
            _give_file_name(written, target)
    _flush(target.parent)


def _new_partial(target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    # The name of a file may have some 255 bytes.
    begins = f".{os.fsencode(target.name)[:100].decode(errors='ignore')}."
    for path in target.parent.iterdir():
        if path.name.startswith(begins) and path.name.endswith(_PARTIAL):
            with suppress(OSError), _held(path):
                shutil.rmtree(path, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=begins, suffix=_PARTIAL, dir=target.parent))


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Lock a folder until the block, or this process, ends. Raises BlockingIOError if another process holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _give_folder_name(folder: Path, target: Path) -> None:
    """Flush a folder's files, then rename it, so that it has its name with all of its files or not at all."""
    for path in folder.iterdir():
        path.chmod(0o644)
        _flush(path)
    folder.chmod(0o755)
    _flush(folder)
    # A rename replaces an empty folder, and nothing else.
    try:
        folder.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise _taken(target) from error


def _give_file_name(file: Path, target: Path) -> None:
    """Give a file its name. Raises Conflict if a file has that name by now; without hard links, it is replaced."""
    try:
        # Unlike a rename, a link never replaces a file that was created meanwhile.
        target.hardlink_to(file)
    except FileExistsError as error:
        raise _taken(target) from error
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        file.rename(target)


def _taken(target: Path) -> Conflict:
    return Conflict(f"{target} was created meanwhile; give another name with -o", param="output")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
