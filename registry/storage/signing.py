"""Signed URLs for a folder behind HTTP: short-lived permission to send or read one blob, or to send one part of one.

>>> query = sign(b"k" * 32, Permission("GET", "ab" * 32), expires_at_s=1000)
>>> verify(b"k" * 32, "GET", "ab" * 32, query, now_s=999.0)
Permission(method='GET', name='abababababababababababababababababababababababababababababababab', size_bytes=None, parts_id='', part=0, part_sha256='')
>>> verify(b"k" * 32, "PUT", "ab" * 32, query, now_s=999.0) is None
True
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from registry.storage.errors import StorageUnavailable
from sdk.whole_files import write_whole

#: A shorter key than the digest's own length would be the weakest part of the signature.
MIN_KEY_BYTES = 32
_NUMBER = re.compile(r"[0-9]{1,15}")
_FIELDS = frozenset(("expires", "method", "size", "parts", "part", "sha256", "sig"))


def kept_key(path: Path) -> bytes:
    """Return the random key in the file `path`, which is made at the first call; only its owner can read the file.

    Processes that serve the same folder share the file, and so sign and check the same URLs. The key must not be
    derived from anything that can be guessed, such as a database URL without a password: with it, every blob can be
    read by its digest. Raises StorageUnavailable if the file can be neither read nor made.
    """
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # The key of a process that was faster stays.
            with contextlib.suppress(FileExistsError):
                write_whole(path, secrets.token_hex(MIN_KEY_BYTES), durable=True, mode=0o600, replace=False)
        key = bytes.fromhex(path.read_text(encoding="ascii"))
    except OSError as error:
        raise StorageUnavailable(
            f"The signing key at {path} can't be used: {error.strerror or error}. Check that the registry may use it."
        ) from error
    except ValueError:
        key = b""
    if len(key) < MIN_KEY_BYTES:
        raise StorageUnavailable(f"The signing key at {path} is damaged. Remove the file; a new one will be made.")
    return key


@dataclass(frozen=True)
class Permission:
    """What one URL allows. To send something: `size_bytes` and, for a part, which one of what with which digest."""

    method: str
    name: str
    size_bytes: int | None = None
    parts_id: str = ""
    part: int = 0
    part_sha256: str = ""


def sign(key: bytes, permission: Permission, *, expires_at_s: int) -> dict[str, str]:
    """Return the query with a permission and its signature. `expires_at_s` is Unix time."""
    query = {"expires": str(expires_at_s), "method": permission.method}
    if permission.size_bytes is not None:
        query["size"] = str(permission.size_bytes)
    if permission.part:
        query |= {"parts": permission.parts_id, "part": str(permission.part), "sha256": permission.part_sha256}
    return query | {"sig": _signature(key, permission, expires_at_s)}


def verify(
    key: bytes, method: str, name: str, query: Mapping[str, str], *, now_s: float | None = None
) -> Permission | None:
    """Return what a URL allows if it was signed here for this request and has not expired, None otherwise."""
    if not query.keys() <= _FIELDS or query.get("method") != method or not _NUMBER.fullmatch(query.get("expires", "")):
        return None
    if not all(_NUMBER.fullmatch(query[field]) for field in ("size", "part") if field in query):
        return None
    size = int(query["size"]) if "size" in query else None
    part = int(query.get("part", "0"))
    permission = Permission(method, name, size, query.get("parts", ""), part, query.get("sha256", ""))
    if (method == "PUT") != (size is not None) or (part > 0) != ("part" in query):
        return None
    expires_at_s = int(query["expires"])
    # As bytes, because compare_digest refuses text that is not ASCII, and the text comes from a stranger.
    given = query.get("sig", "").encode("utf-8", "surrogatepass")
    genuine = hmac.compare_digest(_signature(key, permission, expires_at_s).encode(), given)
    return permission if genuine and (time.time() if now_s is None else now_s) < expires_at_s else None


def _signature(key: bytes, permission: Permission, expires_at_s: int) -> str:
    """The signature in hexadecimal."""
    size = "" if permission.size_bytes is None else str(permission.size_bytes)
    part = (permission.parts_id, str(permission.part), permission.part_sha256)
    # Because of the first line, a signature with the same key for another purpose can never mean this.
    text = "\n".join(("adapterctl blob 2", permission.method, permission.name, size, *part, str(expires_at_s)))
    return hmac.new(key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()
