"""Digests of files, and of the parts of a base that turn texts into tokens."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sdk.formats.adapter_files import GENERATION_FILE
from sdk.formats.base_files import TOKENIZER_FILES, tokenizer_digest


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def generation_of(base: Path) -> str | None:
    """Return the SHA-256 of a base's generation settings; None if it has none."""
    path = base / GENERATION_FILE
    return file_digest(path) if path.is_file() else None


def tokenizer_of(base: Path) -> str:
    """Return the SHA-256 over the digests of a base's tokenizer files."""
    return tokenizer_digest({name: file_digest(base / name) for name in TOKENIZER_FILES if (base / name).is_file()})
