"""Signed URLs for a folder behind HTTP: short-lived leave to send or read one blob.

>>> signature = sign(b"k" * 32, method="GET", sha256="ab" * 32, size_bytes=None, expires_at_s=1000)
>>> verify(b"k" * 32, signature, method="GET", sha256="ab" * 32, size_bytes=None, expires_at_s=1000, now_s=999.0)
True
>>> verify(b"k" * 32, signature, method="PUT", sha256="ab" * 32, size_bytes=None, expires_at_s=1000, now_s=999.0)
False
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import time
from pathlib import Path

from registry.storage.errors import StorageUnavailable

#: A shorter key than the digest's own length would be the weakest part of the signature.
MIN_KEY_BYTES = 32


def kept_key(path: Path) -> bytes:
    """Return the random key kept in the file `path`, made at the first call; only its owner can read the file.

    Processes that serve one folder share the file and so sign and check the same URLs. The key must come from nothing
    that can be guessed, such as a database URL without a password: who has it can read every blob by its digest.
    Raises StorageUnavailable where the file can be neither read nor made.
    """
    partial = path.with_name(f"{path.name}.partial-{secrets.token_hex(8)}")
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(secrets.token_hex(MIN_KEY_BYTES))
            # A link, unlike a rename, never replaces the key of a process that was faster.
            with contextlib.suppress(FileExistsError):
                os.link(partial, path)
            partial.unlink()
        key = bytes.fromhex(path.read_text(encoding="ascii"))
    except OSError as error:
        raise StorageUnavailable(
            f"The signing key at {path}: {error.strerror or error}. Check that the registry may use it."
        ) from error
    except ValueError:
        key = b""
    if len(key) < MIN_KEY_BYTES:
        raise StorageUnavailable(f"The signing key at {path} is damaged. Remove the file, and a new one is made.")
    return key


def sign(key: bytes, *, method: str, sha256: str, size_bytes: int | None, expires_at_s: int) -> str:
    """Return the signature in hexadecimal. `expires_at_s` is Unix time; `size_bytes` is None where nothing is sent."""
    size = "" if size_bytes is None else str(size_bytes)
    # The first line keeps a signature made with the same key for another purpose from ever meaning this.
    text = "\n".join(("adapterctl blob 1", method, sha256, size, str(expires_at_s)))
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def verify(
    key: bytes,
    signature: str,
    *,
    method: str,
    sha256: str,
    size_bytes: int | None,
    expires_at_s: int,
    now_s: float | None = None,
) -> bool:
    """Say whether the signature is ours, for this request, and not expired."""
    expected = sign(key, method=method, sha256=sha256, size_bytes=size_bytes, expires_at_s=expires_at_s)
    # As bytes, because compare_digest refuses text that is not ASCII, and the text comes from a stranger.
    genuine = hmac.compare_digest(expected.encode(), signature.encode("utf-8", "surrogatepass"))
    return genuine and (time.time() if now_s is None else now_s) < expires_at_s
