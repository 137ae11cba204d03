"""Small disks, and how they become full."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

#: What a disk holds, in bytes.
SIZE_BYTES = 8 * 1024**2


@contextmanager
def disk(folder: Path) -> Iterator[Path]:
    """A small disk of its own. Only root may make one, and not in every container."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES},mode=0700", "adapterctl-test", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no disk can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)


@contextmanager
def filled(folder: Path) -> Iterator[None]:
    """Fill a disk to its last byte for the block."""
    filler = folder / "filler"

    def write_much() -> None:
        with filler.open("wb", buffering=0) as file:
            for _ in range(2 * SIZE_BYTES // 4096):
                file.write(bytes(4096))

    try:
        with pytest.raises(OSError, match="No space left"):
            write_much()
        yield
    finally:
        filler.unlink()
