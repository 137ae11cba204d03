"""Signed URLs for a folder behind HTTP: short-lived leave to send or read one blob.

>>> signature = sign(b"k" * 32, method="GET", sha256="ab" * 32, size_bytes=None, expires_at_s=1000)
>>> verify(b"k" * 32, signature, method="GET", sha256="ab" * 32, size_bytes=None, expires_at_s=1000, now_s=999.0)
True
>>> verify(b"k" * 32, signature, method="PUT", sha256="ab" * 32, size_bytes=None, expires_at_s=1000, now_s=999.0)
False
"""

from __future__ import annotations

import hashlib
import hmac
import time

#: A shorter key than the digest's own length would be the weakest part of the signature.
MIN_KEY_BYTES = 32


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
