"""Secrets, and files that only their owner can read."""

from __future__ import annotations

import secrets
from pathlib import Path

from sdk.whole_files import write_whole


def new_secret() -> str:
    """Return a password of 192 random bits that needs no quoting in URLs, configuration files or shells."""
    return secrets.token_hex(24)


def write_private(path: Path, text: str, *, durable: bool = True) -> None:
    """Write a file that only its owner can read, whole or not at all. Raises OSError."""
    write_whole(path, text, durable=durable, mode=0o600)
