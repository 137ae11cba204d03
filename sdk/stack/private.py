"""Secrets, and files that only their owner can read."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def new_secret() -> str:
    """Return a password of 192 random bits that needs no quoting in URLs, configuration files or shells."""
    return secrets.token_hex(24)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    partial = path.with_name(f"{path.name}.partial-{secrets.token_hex(4)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
