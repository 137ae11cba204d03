"""Where an export is written: beside its future name, which it gets once it is whole, unless something else has it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sdk.config import user_path
from sdk.errors import Conflict, InvalidInput, place_explained
from sdk.file_locks import locked
from sdk.whole_files import give_name

_PARTIAL = ".partial"


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
        with locked(partial, timeout_s=0):
            yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def put_in_place(written: Path, target: Path) -> None:
    """Give a file or a folder its name. Raises Conflict if something has that name by now."""
    with place_explained(target):
        for path in written.iterdir() if written.is_dir() else (written,):
            path.chmod(0o644)
        if written.is_dir():
            written.chmod(0o755)
        try:
            give_name(written, target, durable=True, replace=False)
        except FileExistsError as error:
            raise Conflict(f"{target} was created meanwhile; give another name with -o", param="output") from error


def _new_partial(target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    # The name of a file may have some 255 bytes.
    begins = f".{os.fsencode(target.name)[:100].decode(errors='ignore')}."
    for path in target.parent.iterdir():
        if path.name.startswith(begins) and path.name.endswith(_PARTIAL):
            with suppress(OSError), locked(path, timeout_s=0):
                shutil.rmtree(path, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=begins, suffix=_PARTIAL, dir=target.parent))
