"""What is stored and remembered of a token instead of its secret."""

from __future__ import annotations

import hashlib


def secret_digest(secret: str) -> str:
    """What is stored of a token. It has 256 random bits, so a fast hash protects it as well as a slow one."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()
